"""Augmentation of samples and mixing of batches."""
