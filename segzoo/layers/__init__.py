"""Layers that several models and backbones share. They know no names, no settings and no data."""
