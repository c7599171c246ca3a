"""Segmentation models, one file per paper.

A builder takes a backbone and the number of classes, then settings by keyword.
"""
