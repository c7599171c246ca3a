"""Passes of a network over an image, in strips of rows."""
