"""Checkpoint directories: naming, writing, verifying and reading them."""
