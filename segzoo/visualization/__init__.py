"""Visualization of label maps: colors, overlays, legends and comparison panels."""
