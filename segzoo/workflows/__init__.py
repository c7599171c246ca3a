"""Procedures that build objects by name."""
