"""A small random network to export, and images to check it on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from varied_networks import vary_batch_norms_

from segzoo.api import create_model
from segzoo.checkpoints.writing import save_checkpoint
from segzoo.data.dataset_info import make_dataset_info
from segzoo.data.datasets.parts import INFO
from segzoo.export.exporter import export_model
from segzoo.export.formats import ExportModel
from segzoo.models._base import SegModel
from segzoo.types import PlainDict, Sample

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 58.0, 57.0)
CONFIG = {
    "model": {"name": "icnet"},
    "backbone": {"name": "resnet50", "width": 0.125},
    "data": {"name": "parts", "height": 96, "width": 128, "val_images": 3, "train_images": 4},
}


class NoiseData:
    """Structured noise images of several sizes."""

    info = make_dataset_info("noise", tuple("abcde"), None, MEAN, STD)

    def scan(self):
        """There is nothing to find."""

    def __len__(self):
        return 5

    def image(self, index):
        return self[index].image

    def name(self, index):
        return str(index)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        return Sample(coarse, np.zeros(coarse.shape[:2], np.uint8), str(index))


def export_wrapper(name="icnet", input: Any = "uint8", output: Any = "both", num_classes=5) -> ExportModel:
    """An untrained network that predicts several classes, ready for export."""
    torch.manual_seed(0)
    model = create_model(name, backbone=dict(CONFIG["backbone"]), num_classes=num_classes).eval()
    vary_batch_norms_(model)
    return ExportModel(model, MEAN, STD, input=input, output=output).eval()


@dataclass(frozen=True)
class Exported:
    """A checkpoint in ``run`` and its bundle in ``folder``."""

    run: Path
    folder: Path
    result: PlainDict

    @cached_property
    def model(self) -> SegModel:
        """The exported network, before it was fused."""
        model = export_wrapper(num_classes=len(INFO.classes)).model
        assert isinstance(model, SegModel)
        return model


def export_once(root: Path) -> Exported:
    """Export a checkpoint, unless another worker of the tests has done so.

    Args:
        root: a directory that all workers share.
    """
    run, folder = root / "small_run", root / "small_export"
    with FileLock(root / "small_export.lock"):
        if not (folder / "export.json").exists():
            exported = Exported(run, folder, {})
            save_checkpoint(run, 1, exported.model, {}, CONFIG | {"loss": {"name": "cross_entropy"}}, INFO, {})
            folder.mkdir()
            result = export_model(exported.model, INFO, {"checkpoint_sha256": "abc", **CONFIG}, NoiseData(), folder, bundle=True)
            (folder / "export.json").write_text(json.dumps(result))
    return Exported(run, folder, json.loads((folder / "export.json").read_text()))


def shared_root(base: Path) -> Path:
    """The temporary directory that all workers of a session share."""
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
