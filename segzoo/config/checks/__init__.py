"""Checks of a configuration besides names and types."""
