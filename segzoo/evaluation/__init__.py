"""Metrics, the evaluator and its reports."""
