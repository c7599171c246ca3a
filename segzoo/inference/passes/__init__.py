"""Passes of a network over an image, and their average in strips of rows."""
