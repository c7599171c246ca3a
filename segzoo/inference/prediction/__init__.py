"""Prediction from Python: the inputs, the networks' ``predict`` and its result."""
