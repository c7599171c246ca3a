"""Benchmarking models across runtimes."""
