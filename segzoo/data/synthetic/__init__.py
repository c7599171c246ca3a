"""Renderer of the synthetic data set ``parts``."""
