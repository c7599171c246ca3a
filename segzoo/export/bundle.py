"""An exported network, what it needs to be understood, and a program that runs it, in one zip."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from segzoo.io import sha256, write_atomically
from segzoo.types import DatasetInfo

NOTES = """What is in here, and whose it is
================================
predict.py comes from segzoo, Apache-2.0. It needs numpy (BSD-3-Clause), pillow (MIT-CMU) and onnxruntime (MIT), which are not in here.
model.onnx holds weights trained on the data set '{data}'. The terms of that data set, and of whatever weights the training started from,
apply to them; test.png is one of its images. Ask whoever trained the network before you pass either on.
"""


def write_bundle(
    model: Path, info: DatasetInfo, facts: dict[str, Any], hw: tuple[int, int] | None, image: np.ndarray, labels: np.ndarray
) -> Path:
    """Writes ``bundle.zip`` beside the model.

    Args:
        model: the ``.onnx`` file: (N, H, W, 3) uint8 in, labels out.
        info: classes and colors.
        facts: what else ``card.json`` shall say, such as the checkpoint's checksum.
        hw: the size the file is fixed to; None if it takes any.
        image: (H, W, 3) uint8, the image of the self-test.
        labels: (H, W), what the exported network answers to it.
    """
    labels = labels.astype(np.uint8)
    described = facts | info.to_dict() | {"hw": hw, "model_sha256": sha256(model)}
    described["test_labels_sha256"] = hashlib.sha256(labels.tobytes()).hexdigest()
    program = Path(__file__).with_name("bundle_predict.py")
    path = model.with_name("bundle.zip")

    def write(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.write(model, "model.onnx")
            packed.write(program, "predict.py")
            packed.writestr("card.json", json.dumps(described, indent=2) + "\n")
            packed.writestr("NOTES.txt", NOTES.format(data=info.name))
            packed.writestr("test.png", _png(image))
            packed.writestr("test_labels.png", _png(labels))

    write_atomically(path, write)
    return path


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
