"""Backbones that compute feature maps ``c1`` to ``c5``, one file per family."""
