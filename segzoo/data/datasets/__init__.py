"""Data sets by the way they lie on disk."""
