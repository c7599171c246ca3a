"""Measurements of single label maps: blobs, and regions that contradict a prediction."""
