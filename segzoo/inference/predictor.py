"""Label maps of unlabelled pictures: index PNGs for programs, overlays with a legend for people."""

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
from segzoo.inference.image_source import find_pictures
from segzoo.inference.protocol import Post, Protocol
from segzoo.inference.segment import label_map
from segzoo.io import write_atomically
from segzoo.layers.modes import evaluating
from segzoo.layers.normalize import normalise
from segzoo.registry import Range
from segzoo.types import DataCard, DataError
from segzoo.visualization import IGNORED, overlay, with_legend


@torch.no_grad()
def predict(
    model: nn.Module,
    card: DataCard,
    folder: Path,
    post: Post | None = None,
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
    """Writes ``labels/<name>.png`` and ``overlays/<name>.<png|jpg>`` for every picture of a source.

    A label map is a PNG of class ids of the picture's own size, see ``write_labels``. A picture that cannot be read or is too small stops nothing: the
    others are done first. Every file is written whole or not at all.

    Args:
        model: ``forward(x) -> Logits``, with ``align_corners`` and ``num_classes``.
        card: classes, palette and normalisation the model was trained with.
        folder: where results go.
        post: as in ``evaluate``.
        source: a picture, a folder or a pattern in quotes.
        device, precision, mode, crop, stride, scales, flip: as in ``evaluate``.
        overlays: format of the pictures for people; none leaves them out.
        alpha: weight of the class colours over the picture, 0 to 1.

    Returns:
        ``pictures`` written, ``folder`` and ``seconds``.

    Raises:
        ConfigError: the source holds no picture, or settings contradict each other.
        DataError: pictures could not be labelled; names them all.
    """
    protocol = Protocol(mode, crop, stride, tuple(scales), flip, post)
    place = pick_device(device)
    formats = Precision(precision, place)
    pictures = find_pictures(source, folder)
    faults, began = [], time.perf_counter()
    model.to(place)
    with evaluating(model):
        for path, name in _shown(pictures):
            try:
                image = read_image(path)
                label = _labelled(model, image, card, protocol, formats)
            except ValueError as error:  # unreadable, or too small for the model
                faults.append(str(error) if isinstance(error, DataError) else f"{path}: {error}")
                continue
            write_labels(folder / "labels" / f"{name}.png", label, card)
            if overlays != "none":
                write_overlay(folder / "overlays" / f"{name}.{overlays}", image, label, card, alpha)
    if faults:
        done = len(pictures) - len(faults)
        raise DataError(f"{len(faults)} of {len(pictures)} pictures could not be labelled ({done} are done):\n" + "\n".join(faults))
    return {"pictures": len(pictures), "folder": str(folder), "seconds": round(time.perf_counter() - began, 2)}


def _labelled(model: nn.Module, image: np.ndarray, card: DataCard, protocol: Protocol, formats: Precision) -> np.ndarray:
    picture = torch.from_numpy(image)[None]
    x = normalise(picture, card, formats.device)
    return label_map(model, x, picture, protocol, formats)[0].cpu().numpy()


def write_labels(path: Path, label: np.ndarray, card: DataCard) -> None:
    """Writes (H, W) class ids as a palette PNG in the card's colours, or as 16-bit grey above 256 classes."""
    from PIL import Image

    if card.num_classes > 256:
        picture = Image.fromarray(label.astype(np.uint16))
    else:
        picture = Image.frombytes("P", (label.shape[1], label.shape[0]), label.astype(np.uint8).tobytes())
        colours = [*card.palette, *[IGNORED] * (256 - card.num_classes)]
        picture.putpalette([channel for colour in colours for channel in colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: picture.save(file, "PNG"))


def write_overlay(path: Path, image: np.ndarray, label: np.ndarray, card: DataCard, alpha: float) -> None:
    """Writes the picture under the colours of its label map, with a legend of the classes in it, as PNG or JPEG."""
    from PIL import Image

    picture = Image.fromarray(with_legend(overlay(image, label, card, alpha), [label], card))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        write_atomically(path, lambda file: picture.save(file, "JPEG", quality=92))
    else:
        write_atomically(path, lambda file: picture.save(file, "PNG"))


def _shown(pictures: list[tuple[Path, str]]):
    from tqdm import tqdm

    return tqdm(pictures, unit="picture", disable=not sys.stderr.isatty())
