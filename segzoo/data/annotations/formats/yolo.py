"""Data sets of Ultralytics: polygons in text files, or folders of masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from segzoo.data.annotations.image_finder import ImageFinder
from segzoo.data.annotations.regions import AnnotatedImage, Annotations, MaskFile, Region, polygon, rectangle
from segzoo.data.file_index import list_files
from segzoo.data.image_io import read_bytes, read_header
from segzoo.data.masks import IndexMasks
from segzoo.data.splits import Split
from segzoo.image_decoder import SUFFIXES
from segzoo.messages import printable
from segzoo.types import IGNORE, DataError, PlainDict

MASK_SUFFIXES = (".png", ".PNG", ".bmp", ".tif")


def read_yolo(source: Path, finder: ImageFinder) -> Annotations:
    """Read a data set by its YAML file.

    The file names classes and splits. With ``masks_dir`` in it, labels are masks, otherwise polygons. An image without a label file is unlabeled.
    """
    path = _yaml_file(source)
    settings = _settings(path)
    names = _names(path, settings)
    found = Annotations(classes=list(names.values()), lists="")  # the YAML file names them
    folder = settings.get("masks_dir") or "labels"
    masks = _masks(names) if settings.get("masks_dir") else None
    for split, image in _images(path, settings, found.errors):
        finder.used.add(image)
        label = _label_file(image, str(folder), MASK_SUFFIXES if masks else (".txt",))
        if label is None:
            found.unlabeled.append((image, split))
        elif masks:
            mask = MaskFile(label, masks, tuple(names.values()))
            found.images.append(AnnotatedImage(label, image.name, image, mask=mask, split=split))
        else:
            found.images.append(_read_polygons(label, image, names, split))
    return found


def _yaml_file(source: Path) -> Path:
    if source.is_file():
        return source
    files = sorted(path for ending in ("*.yaml", "*.yml") for path in source.glob(ending))
    if len(files) != 1:
        listed = ", ".join(path.name for path in files) or "none"
        raise DataError(
            f"{printable(source)}: expected one YAML file with the classes ('names'), found {listed}. Set action.source to it."
        )
    return files[0]


def _settings(path: Path) -> PlainDict:
    try:
        settings = yaml.safe_load(read_bytes(path))
    except yaml.YAMLError as error:
        raise DataError(f"{printable(path)}: is not valid YAML ({error}).".replace("\n", " ")) from error
    if not isinstance(settings, dict):
        raise DataError(f"{printable(path)}: is not the YAML file of a data set: it has no key 'names'.")
    return settings


def _names(path: Path, settings: PlainDict) -> dict[int, str]:
    """Class names by their number in the labels."""
    names = settings.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(key, int) for key in names):
        raise DataError(f"{printable(path)}: 'names' is {str(names)[:60]}, expected a list of class names, or number: name.")
    return {key: str(names[key]) for key in sorted(names)}


def _images(path: Path, settings: PlainDict, errors: list[str]) -> Iterator[tuple[Split, Path]]:
    """Yield the images of all splits."""
    base = path.parent
    if isinstance(settings.get("path"), str):
        own = Path(settings["path"]).expanduser()
        base = next((top for top in (own if own.is_absolute() else path.parent / own, path.parent) if top.is_dir()), base)
    seen: set[Path] = set()
    splits: tuple[Split, ...] = ("train", "val", "test")
    for split in splits:
        entries = settings.get(split) or []
        if not isinstance(entries, str | list):
            raise DataError(
                f"{printable(path)}: {split!r} is {str(entries)[:60]}, expected a folder, a list file or a list of them."
            )
        for entry in [entries] if isinstance(entries, str) else entries:
            # exports of Roboflow write ../train/images for a folder next to the YAML file
            places = [base / str(entry), base / str(entry).removeprefix("../")]
            place = next((place for place in places if place.exists()), None)
            if place is None:
                errors.append(f"{printable(path)}: {split}: {printable(places[0])} does not exist. Correct the YAML file.")
                continue
            for image in _listed(place, base, errors):
                if image in seen:
                    errors.append(f"{printable(path)}: {printable(image)} is in two splits, or in one twice. List it once.")
                else:
                    seen.add(image)
                    yield split, image


def _listed(place: Path, base: Path, errors: list[str]) -> list[Path]:
    """List the images of a folder or of a list file."""
    if place.is_dir():
        return [place / name for name in list_files(place) if name.lower().endswith(SUFFIXES)]
    lines = [line.strip() for line in read_bytes(place).decode("utf-8-sig", "surrogateescape").splitlines()]
    images = []
    for number, line in enumerate(lines, 1):
        image = (place.parent if line.startswith("./") else base) / line.replace("\\", "/")
        if line and image.is_file():
            images.append(image)
        elif line:
            errors.append(f"{printable(place)}, line {number}: there is no image {printable(image)}. Correct the list.")
    return images


def _label_file(image: Path, folder: str, endings: tuple[str, ...]) -> Path | None:
    """Find the label file of an image.

    The folder ``images`` in its path becomes ``folder``.
    """
    parts = list(image.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = folder
    return next((path for ending in endings if (path := Path(*parts).with_suffix(ending)).is_file()), None)


def _masks(names: dict[int, str]) -> IndexMasks:
    """Reader of masks whose values are class numbers, and 255."""
    table = {IGNORE: IGNORE} | {number: position for position, number in enumerate(names)}
    return IndexMasks(len(names), table, label_orientation="upright")


def _read_polygons(path: Path, image: Path, names: dict[int, str], split: Split) -> AnnotatedImage:
    known: PlainDict = {"source": path, "name": image.name, "split": split, "label_orientation": "upright"}
    try:
        size = read_header(image)[0]
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except DataError as error:
        return AnnotatedImage(image=None, problem=str(error), **known)
    except UnicodeDecodeError:
        return AnnotatedImage(image=None, problem="is not UTF-8 text.", **known)
    regions = [_region(line, f"line {number}", size, names) for number, line in enumerate(lines, 1) if line.strip()]
    return AnnotatedImage(image=image, regions=tuple(regions), **known)


def _region(line: str, name: str, size: tuple[int, int], names: dict[int, str]) -> Region:
    """Read one line: the class and relative coordinates."""
    try:
        number, *numbers = (float(word) for word in line.split())
    except ValueError:
        return Region(name, None, problem=f"is {line.strip()[:40]!r}, expected a class number and coordinates.")
    label = names.get(int(number)) if number.is_integer() else None  # which nan and inf are not
    height, width = size
    if label is None:
        return Region(name, None, problem=f"has the class {line.split()[0]}, but 'names' ends at {max(names)}. Correct the file.")
    if len(numbers) == 4:
        x, y, w, h = numbers
        corners = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
        return Region(name, label, shapes=(rectangle(*corners),), is_box=True)
    if len(numbers) % 2 or len(numbers) < 6:
        return Region(name, label, problem=f"polygon of {len(numbers)} coordinates, expected an even count of at least 6.")
    points = [[x * width, y * height] for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    return Region(name, label, shapes=(polygon(points),))
