"""Index masks, images, lists and YAML of a converted data set."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from segzoo.data.annotations.output_folders import CONF, IMAGES, MASKS
from segzoo.data.annotations.rasterize import Drawn, DrawSettings, draw_image, read_mask_file
from segzoo.data.annotations.regions import AnnotatedImage
from segzoo.data.checks.label_survey import count_labels
from segzoo.data.image_io import read_bytes, read_header
from segzoo.data.splits import Split, write_list
from segzoo.image_decoder import FORMATS, MAX_PIXELS, ImageError, decode_rgb, open_image
from segzoo.io import write_atomically, write_text
from segzoo.messages import printable
from segzoo.progress import with_progress
from segzoo.resources import cpu_cores
from segzoo.types import DataError
from segzoo.visualization.label_png import write_label_png
from segzoo.visualization.palette import Color

ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp", "PPM": ".ppm"}
Placement = Literal["copy", "link"]


@dataclass
class Converted:
    """Result for one image.

    Attributes:
        image: the image and its annotations.
        stem: its name in the converted data set.
        errors: its errors, one line each.
        drawn: its label map, whose pixels are counted in ``pixels``; None if the image was left out.
        pixels: number of pixels by train id.
    """

    image: AnnotatedImage
    stem: str
    errors: list[str] = field(default_factory=list)
    drawn: Drawn | None = None
    pixels: dict[int, int] = field(default_factory=dict)


def write_images(
    images: Sequence[AnnotatedImage],
    folder: Path | None,
    out: Path,
    settings: DrawSettings,
    palette: Sequence[Color],
    placement: Placement,
) -> list[Converted]:
    """Write masks and images on all cores.

    An image that cannot be converted is left out, and its errors say why. Images are named as by ``unique_stems``.
    """
    stems = unique_stems(images, folder)

    def convert(number: int) -> Converted:
        return _write_image(Converted(images[number], stems[number]), out, settings, palette, placement)

    with ThreadPoolExecutor(cpu_cores()) as pool:
        results = pool.map(convert, range(len(images)))
        return list(with_progress(results, len(images), "images", "converting"))


def _write_image(
    converted: Converted, out: Path, settings: DrawSettings, palette: Sequence[Color], placement: Placement
) -> Converted:
    image = converted.image
    try:
        if image.problem or image.image is None:
            raise DataError(f"{printable(image.source)}: {image.problem}")
        if isinstance(image.image, Path):
            data, ending = None, image.image.suffix
            size, orientation = read_header(image.image)
        else:
            data = image.image()
            size, orientation, ending = _decode(data, image)
        drawn = (read_mask_file if image.mask else draw_image)(image, size, orientation, settings)
    except DataError as error:
        converted.errors.append(str(error))
        return converted
    converted.errors += drawn.errors
    if drawn.is_usable:
        place_image(image.image if data is None else data, out / IMAGES / f"{converted.stem}{ending}", placement)
        write_label_png(out / MASKS / f"{converted.stem}.png", drawn.label, palette)
        converted.pixels = count_labels(drawn.label)
        drawn.label = np.empty(0)  # not needed any more
        converted.drawn = drawn
    return converted


def _decode(data: bytes, image: AnnotatedImage) -> tuple[tuple[int, int], int, str]:
    """Size, orientation and extension of an embedded image."""
    try:
        form = open_image(data, FORMATS, MAX_PIXELS).format
        pixels, orientation = decode_rgb(data)
    except ImageError as error:
        raise DataError(f"{printable(image.source)}: its embedded image {error}") from error
    return (pixels.shape[0], pixels.shape[1]), orientation, ENDINGS[str(form)]


def place_image(image: Path | bytes | Callable, path: Path, placement: Placement) -> None:
    """Copy an image, or link to it, without touching the original."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, Path) and placement == "link":
        path.unlink(missing_ok=True)
        path.symlink_to(image.resolve())
        return
    data = read_bytes(image) if isinstance(image, Path) else image
    write_atomically(path, lambda file: file.write(data), durable=False)  # type: ignore[arg-type]


def unique_stems(images: Sequence[AnnotatedImage], folder: Path | None) -> list[str]:
    """Name images by their path below a folder.

    The extension is dropped, unless another image has the same name otherwise. Without a folder, or if an image lies elsewhere, it is the
    one that all images share. That one changes when an image is added in another folder, and so do all names.
    """
    files = [image.image if isinstance(image.image, Path) else image.source for image in images]
    paths = [Path(os.path.abspath(file)) for file in files]
    if not paths:
        return []
    top = None if folder is None else Path(os.path.abspath(folder))
    if top is None or not all(path.is_relative_to(top) for path in paths):
        top = Path(os.path.commonpath([path.parent for path in paths]))
    stems = [path.relative_to(top).with_suffix("").as_posix() for path in paths]
    counts, copies = Counter(stems), Counter[str]()
    taken = {stem for stem, count in counts.items() if count == 1}
    for number, path in enumerate(paths):
        if counts[stems[number]] > 1:
            name = longer = f"{stems[number]}_{path.suffix[1:]}"
            while name in taken:
                copies[longer] += 1
                name = f"{longer}_{copies[longer] + 1}"
            stems[number] = name
            taken.add(name)
    return stems


def assign_splits(converted: Sequence[Converted], lists: Mapping[Split, Sequence[str]]) -> tuple[dict[Split, list[str]], list[str]]:
    """Collect the stems of each split.

    Lists decide, or else what the format tells.

    Args:
        converted: the images, of which those left out are ignored.
        lists: entries of the source's lists, which name images without their extension.

    Returns:
        Stems by split, and notes. Without both train and val there is none.
    """
    notes: list[str] = []
    splits: dict[Split, list[str]] = {"train": [], "val": [], "test": []}
    written = [entry for entry in converted if entry.drawn is not None]
    if lists:
        stem_of = _stems_by_end([entry.stem for entry in written])
        for split, names in lists.items():
            splits[split] = [stem_of[name] for name in names if name in stem_of]
            if missing := [name for name in names if name not in stem_of]:
                notes.append(
                    f"{len(missing)} of {len(names)} names in the list of {split} were not converted: {', '.join(missing[:3])}."
                )
    else:
        for entry in written:
            if entry.image.split:
                splits[entry.image.split].append(entry.stem)
    found: dict[Split, list[str]] = {split: stems for split, stems in splits.items() if stems}
    if found and not {"train", "val"} <= found.keys():
        notes.append(f"only the split {' and '.join(found)} was found, so data.val_ratio separates train from val.")
        return {}, notes
    if found and (others := len(written) - sum(map(len, found.values()))):
        notes.append(f"{others} images belong to no split: they are in no list.")
    return found, notes


def _stems_by_end(stems: Sequence[str]) -> dict[str, str]:
    """Map stems, and unique ends of their paths, to stems."""
    ends: dict[str, list[str]] = {}
    for stem in stems:
        parts = stem.split("/")
        for start in range(1, len(parts)):
            ends.setdefault("/".join(parts[start:]), []).append(stem)
    return {end: found[0] for end, found in ends.items() if len(found) == 1} | {stem: stem for stem in stems}


def write_description(
    folder: Path,
    root: Path,
    title: str,
    comment: str,
    classes: Sequence[str],
    palette: Sequence[Color],
    splits: Mapping[Split, Sequence[str]],
) -> None:
    """Write the lists of the splits and the data set's YAML.

    ``data=<title>`` takes the latter with ``--config-dir``.

    Args:
        folder: where both are written.
        root: where the data set will lie.
        title, comment, classes, palette: contents of the YAML.
        splits: stems by split; without any, the YAML separates train from val.
    """
    for split, stems in splits.items():
        write_list(folder / f"{split}.txt", stems)
    lines = [f"# {comment}", "defaults: [folder, _self_]", f"root: {_quote(str(root.resolve()))}", f"title: {_quote(title)}"]
    lines += [f'images: "{IMAGES}/{{stem}}.*"', f'labels: "{MASKS}/{{stem}}.png"']
    lines += ['lists: "{split}.txt"'] if splits else ["val_ratio: 0.2 # images are assigned by the hash of their names"]
    lines += ["classes:", *(f"  - {_quote(name)}" for name in classes), "palette:", *(f"  - {list(color)}" for color in palette)]
    lines += ["label_orientation: upright"]
    (folder / CONF / "data").mkdir(parents=True, exist_ok=True)
    write_text(folder / CONF / "data" / f"{title}.yaml", "\n".join(lines) + "\n")


def _quote(text: str) -> str:
    """Quote a string for YAML.

    OmegaConf, which reads it, takes ``${`` as the beginning of an interpolation.
    """
    return json.dumps(re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text), ensure_ascii=False)
