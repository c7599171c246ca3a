"""Annotations of other tools, and their conversion to index masks."""
