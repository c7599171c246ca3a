"""Pruning a trained network and reporting the result."""
