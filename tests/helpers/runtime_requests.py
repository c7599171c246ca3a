"""Requests for the runtimes under test."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from segzoo.api import create_model
from segzoo.export.formats import ExportModel
from segzoo.runtimes._base import RuntimeRequest


def runtime_request(precision: Any = "fp32", name: str = "icnet") -> RuntimeRequest:
    """A small random network with one 64x96 example and four calibration images."""
    torch.manual_seed(0)
    model = create_model(name, backbone={"name": "resnet50", "width": 0.125}, num_classes=5).eval()
    images = [np.random.default_rng(n).integers(0, 256, (64, 96, 3), dtype=np.uint8) for n in range(4)]
    exported = ExportModel(model, (120.0, 110.0, 100.0), (60.0, 58.0, 57.0), input="uint8", output="logits").eval()
    return RuntimeRequest(exported, torch.from_numpy(images[0][None]), precision, images)
