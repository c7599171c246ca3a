"""Evaluations with known counts."""

from __future__ import annotations

import numpy as np

from segzoo.evaluation.evaluator import Evaluation
from segzoo.evaluation.metrics import ConfusionMatrix


def evaluation(confusion, names, images=10, loss=None):
    """An evaluation of images with equal counts."""
    matrix = ConfusionMatrix(len(names))
    matrix.matrix = np.array(confusion) * images
    counts = np.repeat(matrix.class_counts()[None] // images, images, axis=0)
    protocol = {"mode": "whole", "crop": None, "scales": [1.0], "images": images, "precision": "bf16"}
    return Evaluation(matrix.scores(names, images, loss), matrix.matrix, protocol, counts, tuple(map(str, range(images))))
