"""Rendering of the generated parts data set."""
