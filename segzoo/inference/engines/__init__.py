"""Engines that predict on several machines."""
