"""Label maps of unlabeled images: index PNGs for programs, overlays with a legend for people."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import nn

from segzoo.data.image_io import read_image
from segzoo.device import Precision, pick_device
from segzoo.inference.image_source import find_images
from segzoo.inference.protocol import InferenceProtocol, PostProcessor
from segzoo.inference.segment import segment_image
from segzoo.io import write_atomically
from segzoo.layers.modes import eval_mode
from segzoo.layers.normalize import normalize
from segzoo.registry import Range
from segzoo.types import DataError, DatasetInfo
from segzoo.visualization import IGNORED, overlay, with_legend


@torch.no_grad()
def predict_images(
    model: nn.Module,
    info: DatasetInfo,
    folder: Path,
    post: PostProcessor | None = None,
    *,
    source: str,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32",
    mode: Literal["whole", "slide"] = "whole",
    crop: Annotated[tuple[int, int], Range(1)] | None = None,
    stride: Annotated[tuple[int, int], Range(1)] | None = None,
    scales: Annotated[tuple[float, ...], Range(0, None, above=True)] = (1.0,),
    flip: bool = False,
    overlays: Literal["png", "jpg", "none"] = "png",
    alpha: Annotated[float, Range(0, 1)] = 0.5,
) -> dict[str, Any]:
    """Writes ``labels/<name>.png`` and ``overlays/<name>.<png|jpg>`` for every image of a source.

    A label map is a PNG of class ids of the image's own size, see ``write_labels``. An image that cannot be read or is too small stops nothing: the
    others are done first. Every file is written whole or not at all.

    Args:
        model: ``forward(x) -> Logits``, with ``align_corners`` and ``num_classes``.
        info: classes, palette and normalization the model was trained with.
        folder: where results go.
        post: as in ``evaluate``.
        source: an image, a folder or a pattern in quotes.
        device, precision, mode, crop, stride, scales, flip: as in ``evaluate``.
        overlays: format of the images for people; none leaves them out.
        alpha: weight of the class colors over the image, 0 to 1.

    Returns:
        ``pictures`` written, ``folder`` and ``seconds``.

    Raises:
        ConfigError: the source holds no image, or settings contradict each other.
        DataError: images could not be labeled; names them all.
    """
    protocol = InferenceProtocol(mode, crop, stride, tuple(scales), flip, post)
    place = pick_device(device)
    formats = Precision(precision, place)
    pictures = find_images(source, folder)
    faults, began = [], time.perf_counter()
    model.to(place)
    with eval_mode(model):
        for path, name in _shown(pictures):
            try:
                image = read_image(path)
                label = _segment_files(model, image, info, protocol, formats)
            except ValueError as error:  # unreadable, or too small for the model
                faults.append(str(error) if isinstance(error, DataError) else f"{path}: {error}")
                continue
            write_labels(folder / "labels" / f"{name}.png", label, info)
            if overlays != "none":
                write_overlay(folder / "overlays" / f"{name}.{overlays}", image, label, info, alpha)
    if faults:
        done = len(pictures) - len(faults)
        raise DataError(f"{len(faults)} of {len(pictures)} images could not be labeled ({done} are done):\n" + "\n".join(faults))
    return {"pictures": len(pictures), "folder": str(folder), "seconds": round(time.perf_counter() - began, 2)}


def _segment_files(
    model: nn.Module, image: np.ndarray, info: DatasetInfo, protocol: InferenceProtocol, formats: Precision
) -> np.ndarray:
    picture = torch.from_numpy(image)[None]
    x = normalize(picture, info, formats.device)
    return segment_image(model, x, picture, protocol, formats)[0].cpu().numpy()


def write_labels(path: Path, label: np.ndarray, info: DatasetInfo) -> None:
    """Writes (H, W) class ids as a palette PNG in the info's colors, or as 16-bit gray above 256 classes."""
    from PIL import Image

    if info.num_classes > 256:
        picture = Image.fromarray(label.astype(np.uint16))
    else:
        picture = Image.frombytes("P", (label.shape[1], label.shape[0]), label.astype(np.uint8).tobytes())
        colors = [*info.palette, *[IGNORED] * (256 - info.num_classes)]
        picture.putpalette([channel for color in colors for channel in color])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: picture.save(file, "PNG"))


def write_overlay(path: Path, image: np.ndarray, label: np.ndarray, info: DatasetInfo, alpha: float) -> None:
    """Writes the image under the colors of its label map, with a legend of the classes in it, as PNG or JPEG."""
    from PIL import Image

    picture = Image.fromarray(with_legend(overlay(image, label, info, alpha), [label], info))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        write_atomically(path, lambda file: picture.save(file, "JPEG", quality=92))
    else:
        write_atomically(path, lambda file: picture.save(file, "PNG"))


def _shown(pictures: list[tuple[Path, str]]):
    from tqdm import tqdm

    return tqdm(pictures, unit="picture", disable=not sys.stderr.isatty())
