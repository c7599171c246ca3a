"""Caches of decoded samples, in memory and on disk."""
