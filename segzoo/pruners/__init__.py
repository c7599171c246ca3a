"""Structured pruning: which channels belong together, which of them matter least, and networks without those."""
