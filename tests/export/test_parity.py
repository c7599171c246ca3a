"""What the check of an exported file finds, and the image of a bundle's self-test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_exports import MEAN, STD, NoiseData
from torch import nn

from segzoo.export import exporter
from segzoo.export.formats import ExportModel
from segzoo.export.parity import check_parity
from segzoo.inference.exported.network import ExportedNetwork
from segzoo.types import Logits, ParityError

METADATA = {"dataset": NoiseData.info.to_dict(), "input": "uint8", "output": "labels", "hw": None, "align_corners": False}


class Pointwise(nn.Module):
    """Scores each pixel by its own color."""

    align_corners, num_classes = False, 5

    def forward(self, x):
        return Logits(F.conv2d(x, torch.linspace(-1, 1, 15).reshape(5, 3, 1, 1)))


@pytest.mark.parametrize(("size", "wrong"), [(1, 0), (2, 0), (2, 1)], ids=["alone", "first of two", "second of two"])
def test_errors_in_one_image_of_one_batch_are_found(tmp_path, size, wrong):
    original = ExportModel(Pointwise(), MEAN, STD, input="uint8", output="labels").eval()
    damaged = True

    def call(batch):
        labels = original(torch.from_numpy(batch))[0].numpy().copy()
        if damaged and len(batch) == size:
            labels[wrong] = 4 - labels[wrong]
        return [labels]

    network, images = ExportedNetwork(call, METADATA, "fp32"), [NoiseData().image(0)]
    with pytest.raises(ParityError, match="labels equal the network's, expected 99.90%"):
        check_parity(network, Pointwise(), images, NoiseData.info, tmp_path, min_agreement=0.999)
    damaged = False
    [row] = check_parity(network, Pointwise(), images, NoiseData.info, tmp_path, min_agreement=0.999)
    assert row["agreement"] == 1 and row["classes"] > 1 and row["hw"] == [160, 240]


def test_a_bundle_is_tested_on_the_image_of_most_classes_then_the_largest(monkeypatch):
    chosen = []
    monkeypatch.setattr(exporter, "write_bundle", lambda path, info, card, hw, image, labels: chosen.append(image.shape[0]))
    network: Any = SimpleNamespace(label_images=lambda images: torch.zeros(images.shape[:3]), info=None, precision="fp32")
    crops = [np.zeros((side, 4, 3), np.uint8) for side in (9, 4, 6, 5)]
    parity = [{"classes": count} for count in (2, 3, 3, 3)]
    exporter._bundle(network, Path("model.onnx"), {"hw": None}, crops, {"parity": parity})
    assert chosen == [6]
