"""Backbones that turn an image into five maps, ``c1`` to ``c5``; one file per family."""
