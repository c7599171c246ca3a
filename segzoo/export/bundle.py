"""Zip bundle of an exported network and a standalone prediction script."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

import segzoo.channel_decoder as channel_decoder
import segzoo.channel_files as channel_files
import segzoo.decoder_warnings as decoder_warnings
import segzoo.image_decoder as image_decoder
from segzoo.export.bundle_check import check_reader
from segzoo.export.card import describe_interface
from segzoo.io import npy_bytes, sha256, write_atomically
from segzoo.types import DatasetInfo, PlainDict
from segzoo.visualization import drawing

NOTES = """Contents and licenses
=====================
predict.py, drawing.py and the decoders are part of segzoo (Apache-2.0). They need numpy (BSD-3-Clause), pillow 11 or newer (MIT-CMU)
and onnxruntime 1.17 or newer (MIT), which are not included.{cpp} Other programs find what model.onnx takes and returns under
"interface" in card.json.
model.onnx contains weights trained on the data set '{data}', and {test} is one of its images. The license terms of that data set and of
any pretrained weights apply to them. Ask whoever trained the network before you redistribute either.
"""


MODULES = {  # which predict.py imports
    "channel_decoder": channel_decoder,
    "channel_files": channel_files,
    "decoder_warnings": decoder_warnings,
    "drawing": drawing,
    "image_decoder": image_decoder,
}
CPP = " So is predict.cpp, an example in C++ that needs only ONNX Runtime."  # and reads 8-bit RGB


def write_bundle(
    model: Path, info: DatasetInfo, metadata: PlainDict, hw: tuple[int, int] | None, image: np.ndarray, labels: np.ndarray
) -> Path:
    """Write ``bundle.zip`` next to the exported model.

    Args:
        model: the ``.onnx`` file, (N, H, W, C) integers -> labels.
        info: classes and colors.
        metadata: further entries of ``card.json``, such as the checkpoint's checksum.
        hw: fixed input size of the model, None if it takes any.
        image: (H, W, C), the image of the self-test.
        labels: (H, W), its labels by the exported network.

    Raises:
        ParityError: the bundle reads images to other pixels than segzoo does. The bundle is deleted.
    """
    labels = labels.astype(np.uint8)
    test, content = ("test.png", _png(image)) if info.pixels.is_rgb else ("test.npy", npy_bytes(image))
    card = (
        metadata
        | info.to_dict()
        | info.pixels._asdict()
        | {"test_image": test, "background": info.background, "hw": hw, "model_sha256": sha256(model)}
    )
    card["interface"] = describe_interface(model, info, hw)
    card["test_labels_sha256"] = hashlib.sha256(labels.tobytes()).hexdigest()
    script, example = (Path(__file__).with_name(f"bundle_predict.{suffix}") for suffix in ("py", "cpp"))
    path = model.with_name("bundle.zip")

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(model, "model.onnx")
            archive.write(script, "predict.py")
            if info.pixels.is_rgb:
                archive.write(example, "predict.cpp")
            for name, module in MODULES.items():
                archive.writestr(f"{name}.py", standalone(Path(str(module.__file__))))
            archive.writestr("card.json", json.dumps(card, indent=2) + "\n")
            archive.writestr("NOTES.txt", NOTES.format(data=info.name, test=test, cpp=CPP if info.pixels.is_rgb else ""))
            archive.writestr(test, content)
            archive.writestr("test_labels.png", _png(labels))

    write_atomically(path, write)
    try:
        check_reader(path, info.pixels)
    except BaseException:
        path.unlink()
        raise
    return path


def standalone(module: Path) -> str:
    """Source of a module whose imports work in a bundle."""
    return module.read_text(encoding="utf-8").replace("from segzoo.", "from ")


def _png(pixels: np.ndarray) -> bytes:
    """Encode (H, W) or (H, W, 3) uint8 as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
