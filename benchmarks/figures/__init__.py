"""Figures of the main README, drawn as SVG."""
