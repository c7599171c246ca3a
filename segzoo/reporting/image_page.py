"""A page that shows the images of a data set with overlays.

It opens from disk without a network. The images are in a folder next to it, numbered, so that no name of the data becomes a path.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from segzoo.data.inspection.blobs import class_blobs
from segzoo.io import write_atomically, write_text
from segzoo.messages import printable
from segzoo.registry import Range
from segzoo.reporting.html import render_template
from segzoo.types import DatasetInfo, PlainDict, Sample
from segzoo.visualization.drawing import IGNORED, shown_rgb
from segzoo.visualization.layers import downscale_image, downscale_label, label_layer, page_size

FOLDER = "thumbnails"  # next to the page
JPEG_QUALITY = 75

MaxPixels = Annotated[int, Range(10_000, 100_000_000)]


def image_entry(sample: Sample, split: str, info: DatasetInfo, number: int) -> PlainDict:
    """Describe a labeled image by what the page filters and sorts by.

    Returns:
        ``number`` of its thumbnails, ``name``, ``split``, ``size`` (W, H), ``ignored`` fraction of the pixels, and ``classes``: train id,
        fraction of the pixels, number of blobs, and the areas of the largest and the smallest in pixels.
    """
    classes = []
    for value, (_, areas, _) in class_blobs(sample.label, info):
        classes.append([value, float(areas.sum() / sample.label.size), len(areas), int(areas.max()), int(areas.min())])
    height, width = sample.label.shape
    ignored = float((sample.label == info.ignore).mean())
    name = printable(sample.name)
    return {"number": number, "name": name, "split": split, "size": [width, height], "ignored": ignored, "classes": classes}


def unreadable_entry(name: str, split: str, error: str) -> PlainDict:
    """Describe an image that cannot be shown."""
    return {"name": printable(name), "split": split, "size": None, "ignored": 0.0, "classes": [], "error": error}


def write_thumbnails(
    out: Path, number: int, image: np.ndarray, layers: Mapping[str, np.ndarray], info: DatasetInfo, max_pixels: int
) -> int:
    """Write an image and its layers next to the page.

    Args:
        out: folder of the page.
        number: a number for the names of the files.
        image: (H, W, C).
        layers: name of each layer, such as ``label``, and its train ids (H, W).
        info: classes and palette.
        max_pixels: larger images are downscaled to this number of pixels.

    Returns:
        Bytes written.
    """
    from PIL import Image

    size = page_size(image.shape[:2], max_pixels)
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{number:06}.jpg"
    small = Image.fromarray(downscale_image(shown_rgb(image, info.show_channels), size))
    write_atomically(path, lambda file: small.save(file, "JPEG", quality=JPEG_QUALITY), durable=False)
    paths = [path]
    for name, label in layers.items():
        layer = label_layer(downscale_label(label, size), info)
        paths.append(folder / f"{number:06}-{name}.png")
        write_atomically(paths[-1], lambda file, layer=layer: layer.save(file, "PNG"), durable=False)
    return sum(path.stat().st_size for path in paths)


def remove_thumbnails(out: Path, number: int) -> None:
    """Remove the thumbnails of an image that the page does not show."""
    for path in (out / FOLDER).glob(f"{number:06}[-.]*"):
        path.unlink()


def write_page(
    path: Path,
    title: str,
    images: Sequence[PlainDict],
    info: DatasetInfo,
    layers: Sequence[str],
    findings: Sequence[PlainDict] = (),
) -> None:
    """Write the page of images whose thumbnails have been written.

    Args:
        path: file of the page.
        title: heading of the page.
        images: from ``image_entry``, in their default order, with ``findings``, which are positions in the argument of that name. Images
            with a ``score`` and ``regions`` can be marked; a region has ``box`` (left, top, width and height in pixels), ``label``,
            ``prediction`` (train ids) and ``score``.
        info: classes and palette.
        layers: names of the layers.
        findings: ``kind`` and ``text`` of each finding on the data set.
    """
    content = {
        "images": list(images),
        "classes": list(info.classes),
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in info.palette],
        "ignoredColor": "#{:02x}{:02x}{:02x}".format(*IGNORED),
        "background": info.background,
        "layers": list(layers),
        "findings": list(findings),
        "folder": FOLDER,
        "ranked": any("score" in image for image in images),
    }
    content["id"] = f"{zlib.crc32(json.dumps(content).encode()):08x}"  # marks are stored under it
    write_text(path, render_template("image_page.html", title=title, content=content))
