"""JSON files of LabelMe and X-AnyLabeling."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from segzoo.data.annotations.image_finder import ImageFinder
from segzoo.data.annotations.regions import AnnotatedImage, Annotations, Region, true_flags
from segzoo.data.datasets.labelme import is_labelme_4, read_record, stored_size
from segzoo.data.file_index import list_files
from segzoo.data.image_io import read_header, read_image
from segzoo.data.splits import Split, split_of
from segzoo.image_decoder import ImageError, decode_rgb
from segzoo.messages import printable
from segzoo.types import DataError, PlainDict

MAX_DIFFERENCE = 8.0  # mean over pixels of 0 to 255, from encoding an image as JPEG once more
MAX_CANDIDATES = 8  # files of one name that are decoded


def read_labelme(source: Path, finder: ImageFinder) -> Annotations:
    """Read one LabelMe file, or all below a folder.

    The image of a file lies next to it and has its name, or is that of ``imagePath``, or is embedded, or has its name elsewhere. Below a
    folder, images without a file are unlabeled.
    """
    found = Annotations(folder=source if source.is_dir() else source.parent)
    paths = [source] if source.is_file() else [source / name for name in list_files(source) if name.lower().endswith(".json")]
    for path in paths:
        try:
            record = read_record(path)
        except DataError as error:
            found.errors.append(str(error))
            finder.mark_used(path)
            continue
        split = split_of(*(part.name for part in path.relative_to(source).parents)) if path != source else None
        found.images.append(_read_image(path, record, finder, split, found.notes))
    found.unlabeled = finder.unused() if source.is_dir() else []
    return found


def _read_image(path: Path, record: PlainDict, finder: ImageFinder, split: Split | None, notes: list[str]) -> AnnotatedImage:
    image, problem = None, ""
    try:
        image = _find(path, record, finder, split, notes)
    except DataError as error:
        problem = str(error)
        finder.mark_used(path)
    return AnnotatedImage(
        path,
        path.stem,
        image,
        _regions(record["shapes"]),
        size=stored_size(record),
        label_orientation="upright" if is_labelme_4(record) else None,
        split=split,
        flags=true_flags(record.get("flags")),
        problem=problem,
    )


def _find(path: Path, record: PlainDict, finder: ImageFinder, split: Split | None, notes: list[str]) -> Path | Callable[[], bytes]:
    """Find the image of a LabelMe file, or how to decode it.

    Raises:
        DataError: there is none, or several fit.
    """
    name = record.get("imagePath")
    name = name.replace("\\", "/") if isinstance(name, str) else ""
    adjacent, exact = finder.adjacent(path), finder.at(path.parent / name) if name else None
    places = [*([exact] if exact else []), *adjacent]
    finder.used.update(places)
    if trusted := [image for image in places if image.name == Path(name).name and image.stem == path.stem]:
        return trusted[0]
    if isinstance(record.get("imageData"), str):
        finder.mark_used(path)
        return _same_image(path, [*places, *finder.named(Path(name).name)], finder) or partial(embedded_image, path)
    if adjacent:
        image = finder.find_stem(path.stem, path.parent, split)
    elif exact:
        return exact
    else:
        image = _find_elsewhere(path, name, finder, split)
    if name and image.stem == path.stem and image.name != Path(name).name and (not adjacent or Path(name).stem != image.stem):
        notes.append(f"{printable(path)}: names the image {printable(name)!r}; {printable(image)}, which has its name, was used.")
    return image


def _same_image(path: Path, candidates: Sequence[Path], finder: ImageFinder) -> Path | None:
    """Find the file of an embedded image, whose name others may have.

    LabelMe encodes the embedded image anew, so the pixels may differ a little. Of similar images, such as those of a fixed camera, none is
    taken.
    """
    candidates = list(dict.fromkeys(candidates))
    if not 0 < len(candidates) <= MAX_CANDIDATES:
        return None
    differences = []
    with suppress(DataError, ImageError):  # reported when it is converted
        embedded = decode_rgb(embedded_image(path))[0].astype(np.int16)
        for candidate in candidates:
            with suppress(DataError):
                if read_header(candidate)[0] == embedded.shape[:2]:
                    differences.append((float(np.abs(read_image(candidate) - embedded).mean()), candidate))
    differences.sort()
    if not differences or differences[0][0] > MAX_DIFFERENCE or any(2 * differences[0][0] > other for other, _ in differences[1:]):
        return None
    finder.used.add(differences[0][1])
    return differences[0][1]


def _find_elsewhere(path: Path, name: str, finder: ImageFinder, split: Split | None) -> Path:
    """Find an image in another folder.

    If ``imagePath`` has the name of the file, the extension decides too. Otherwise it may be outdated, and the file's name comes first.
    """
    by_stem, by_name = partial(finder.find_stem, path.stem, path.parent, split), partial(finder.find, name, path.parent, split)
    first, second = (by_name, by_stem) if Path(name).stem == path.stem else (by_stem, by_name)
    try:
        return first()
    except DataError as error:
        try:
            return second()
        except DataError:
            raise error from None


def embedded_image(path: Path) -> bytes:
    """Decode the image that a LabelMe file embeds.

    Raises:
        DataError: it is not base64 text.
    """
    try:
        return base64.b64decode(read_record(path)["imageData"], validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{printable(path)}: the embedded image is not base64 text. Save it with LabelMe again.") from error


def _regions(shapes: list[object]) -> tuple[Region, ...]:
    """Group the shapes of a file to regions.

    Shapes with the same label and ``group_id`` are one object, in place of the first.
    """
    objects: dict[object, list[tuple[int, object]]] = {}
    for number, shape in enumerate(shapes, 1):
        fields = shape if isinstance(shape, dict) else {}
        group = fields.get("group_id")
        key = (str(fields.get("label")).strip(), group) if isinstance(group, int | str) else number
        objects.setdefault(key, []).append((number, shape))
    regions = []
    for parts in objects.values():
        numbers, own = zip(*parts, strict=True)
        name = f"shape{'s' if len(numbers) > 1 else ''} {' and '.join(map(str, numbers))}"
        first = own[0]
        label = first.get("label") if isinstance(first, dict) else None
        flags = dict.fromkeys(flag for shape in own if isinstance(shape, dict) for flag in true_flags(shape.get("flags")))
        regions.append(Region(name, label, shapes=own, flags=tuple(flags), count=len(own)))
    return tuple(regions)
