"""Loggers: destinations of a run's metrics, images and results."""
