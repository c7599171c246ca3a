"""Layers that several models and backbones share."""
