"""Images, scales and windows that are too small for a model."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from image_files import build_folder, noise, save
from small_models import build

from segzoo.evaluation.evaluator import evaluate
from segzoo.inference.protocol import InferenceProtocol
from segzoo.types import DataError, InputTooSmall

CASES = {
    "image": ((20, 24), {}, r"images/val/1\.png: .*received \(1, 3, 20, 24\).* at least 32 x 32 pixels: enlarge or pad the images"),
    "scale": ((64, 40), {"scales": (0.5, 1.0)}, r"images/val/1\.png: the scale 0.5 makes 32 x 20 of 64 x 40 pixels .*Use scales of at least 0.8 "),
    "window": (
        (64, 40),
        {"crop": (16, 40)},
        r"images/val/1\.png: the windows protocol.crop=\[16, 40\] are below the model's minimum of 32 x 32 pixels. Set at least 'protocol.crop=\[32,40\]'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_too_small_is_named(tmp_path, case):
    size, options, expected = CASES[case]
    save(tmp_path / "images/val/1.png", noise(*size))
    save(tmp_path / "labels/val/1.png", np.zeros(size, np.uint8))
    data = build_folder(tmp_path, "val")
    with pytest.raises(DataError, match=expected):
        evaluate(
            build("fcn_dilated", num_classes=3), data, data.info, protocol=InferenceProtocol(**options), device="cpu", workers=0
        )


def test_the_error_reaches_other_processes():
    with pytest.raises(InputTooSmall) as raised:
        build("fcn_dilated", num_classes=3)(torch.zeros(1, 3, 20, 24))
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (type(copy), str(copy), copy.minimum) == (InputTooSmall, str(raised.value), 32)
