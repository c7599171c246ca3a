"""Data sets, label conversion and batches."""
