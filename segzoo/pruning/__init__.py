"""Structured pruning: importance criteria, channel tracing and surgery."""
