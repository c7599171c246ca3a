"""Turning names into checked settings and objects."""
