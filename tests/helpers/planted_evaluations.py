"""Evaluation and run directories with planted scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segzoo.evaluation.evaluator import Evaluation
from segzoo.evaluation.fingerprint import data_fingerprint
from segzoo.evaluation.metrics import ConfusionMatrix
from segzoo.evaluation.report import write_summary
from segzoo.inference.protocol import InferenceProtocol

CLASSES = ("road", "car", "sky")


def store_evaluation(
    folder: Path,
    quality: float,
    number: int = 0,
    images: int = 40,
    classes: tuple[str, ...] = CLASSES,
    split: str = "val",
    labels: int = 0,
    **protocol: Any,
) -> Path:
    """Write an evaluation whose images are all of one quality.

    Args:
        folder: the evaluation directory.
        quality: logit of the hit rate; some images are harder for every model.
        number: seed of the errors.
        images: number of images, ``drive_<image // 4>_<image>``.
        classes: names of the classes.
        split: the scored split.
        labels: seed of the labels.
        protocol: changes of the protocol.
    """
    size, fixed, rng = len(classes), np.random.default_rng(labels), np.random.default_rng([number, 1])
    hard, labeled = fixed.normal(0, 0.6, (images, 1)), fixed.integers(100, 400, (images, size))
    hits = rng.binomial(labeled, 1 / (1 + np.exp(-(quality + hard + rng.normal(0, 0.2, (images, size))))))
    confusion = np.zeros((images, size, size), np.int64)
    for k in range(size):
        confusion[:, k, k] = hits[:, k]
        confusion[:, k, (k + 1) % size] = labeled[:, k] - hits[:, k]  # each class is confused with the next
    counts = np.stack([hits, labeled, confusion.sum(1)], axis=1)
    names = tuple(f"drive{image // 4}_{image:03}" for image in range(images))
    matrix = ConfusionMatrix(size)
    matrix.matrix = confusion.sum(0)
    described = InferenceProtocol().to_dict() | {"precision": "fp32"} | protocol | data_fingerprint("toy", names, counts)
    write_summary(
        folder,
        Evaluation(matrix.scores(classes, images), matrix.matrix, described, counts, names),
        f"{number:064}",
        split,
    )
    return folder


def store_run(folder: Path, quality: float, seed: int, lr: float = 0.01) -> Path:
    """Write the directory of a finished run with its configuration and evaluation."""
    (folder / "checkpoints").mkdir(parents=True)
    config = {"model": {"name": "icnet"}, "optim": {"lr": lr}, "seed": seed, "out": str(folder)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "result.json").write_text(json.dumps({"finished": True}))
    store_evaluation(folder / "eval", quality, number=seed)
    return folder
