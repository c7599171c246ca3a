"""Comparison of models, and of predictions made by other code."""
