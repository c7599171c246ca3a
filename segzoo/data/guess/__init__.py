"""Guess of the settings of a data set from its folder."""
