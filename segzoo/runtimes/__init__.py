"""Inference runtimes: builders of functions from images to logits."""
