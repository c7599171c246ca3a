"""Predict images as a stored evaluation did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from segzoo.config.from_checkpoint import load_checkpoint
from segzoo.config.from_export import network_protocol
from segzoo.device import DeviceName, Precision, pick_device
from segzoo.inference.protocol import SINGLE_PASS
from segzoo.registry import ConfigError
from segzoo.types import Dataset
from segzoo.workflows.compare.evaluations import StoredEvaluation, run_directory
from segzoo.workflows.report.run_page import predictor

PredictIndexed = Callable[[np.ndarray, int], np.ndarray]  # image (H, W, C) uint8 or uint16 and its index -> train ids


def stored_predictor(evaluation: StoredEvaluation, device: DeviceName) -> PredictIndexed:
    """Load the checkpoint of an evaluation.

    Raises:
        ConfigError: it is missing, or it is no longer the one that was evaluated.
    """
    config, run = evaluation.config, run_directory(evaluation.folder)
    ckpt = config.get("ckpt") or (None if run is None else str(run))
    if ckpt is None:
        raise ConfigError("its directory names no checkpoint")
    model, info, meta = load_checkpoint(ckpt=str(ckpt))
    if meta["sha256"] != evaluation.summary.get("checkpoint_sha256"):
        raise ConfigError(f"{ckpt} is no longer the checkpoint that was evaluated")
    protocol = SINGLE_PASS
    if "protocol" in config:
        protocol, _ = network_protocol(config, model, info, meta, config.get("threshold"))
    predict = predictor(model, info, protocol, Precision(evaluation.summary["precision"], pick_device(device)))
    return lambda image, index: predict(image)


def file_predictor(folder: Path, dataset: Dataset) -> PredictIndexed:
    """Read the label maps that other code has written."""
    from segzoo.data.image_io import read_mask
    from segzoo.evaluation.label_files import find_label_files

    files = find_label_files(folder, tuple(dataset.name(index) for index in range(len(dataset))))
    return lambda image, index: read_mask(files[index])
