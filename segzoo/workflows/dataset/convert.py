"""The action ``convert``: files of annotation tools to index masks."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from segzoo.config.checks.data_paths import conversion_errors, conversion_title
from segzoo.data.annotations.class_table import ClassTable, class_notes, make_class_table
from segzoo.data.annotations.formats.coco import read_coco
from segzoo.data.annotations.formats.cvat import read_cvat
from segzoo.data.annotations.formats.datumaro import read_datumaro
from segzoo.data.annotations.formats.labelme import read_labelme
from segzoo.data.annotations.formats.supervisely import read_supervisely
from segzoo.data.annotations.formats.voc import MASK_FOLDERS, read_voc
from segzoo.data.annotations.formats.yolo import read_yolo
from segzoo.data.annotations.image_finder import ImageFinder
from segzoo.data.annotations.output_folders import CONF, new_conversion
from segzoo.data.annotations.rasterize import DrawSettings, Order
from segzoo.data.annotations.regions import AnnotatedImage, Annotations
from segzoo.data.annotations.writer import Converted, Placement, assign_splits, write_description, write_images
from segzoo.data.checks.check import group_errors
from segzoo.data.masks import LabelOrientation
from segzoo.data.splits import SPLITS, Split, read_list
from segzoo.messages import Example, printable
from segzoo.registry import ACTIONS, ConfigError, Range
from segzoo.reporting.tables import markdown_table
from segzoo.types import DataError, PlainDict, PlainMapping
from segzoo.visualization.palette import default_palette
from segzoo.workflows.dataset._report import ActionReport

MAX_LISTED = 20  # errors on the terminal
LISTS = "{split}.txt"  # unless the format has lists of its own
Format = Literal["labelme", "coco", "cvat", "voc", "yolo", "supervisely", "datumaro"]
Names = Annotated[dict[str | int, str], Example({"scratches": "scratch", "unclear": "ignore"})]


@ACTIONS.register
def convert(
    data: PlainMapping,
    out: Path,
    *,
    format: Format,
    source: str,
    image_root: str | None = None,
    images: Placement = "copy",
    title: str | None = None,
    classes: tuple[str, ...] | None = None,
    names: Names | None = None,
    order: Order = "file",
    lists: str | None = LISTS,
    unlabeled: Literal["leave_out", "background"] = "leave_out",
    crowd: Literal["class", "ignore"] = "class",
    boxes: Literal["error", "fill"] = "error",
    line_px: Annotated[int | None, Range(1, 255)] = None,
    skip_shapes: tuple[str, ...] = (),
    ignore_flags: tuple[str, ...] = (),
    clip_px: Annotated[float, Range(0, 1e5)] = 2.0,
    label_orientation: LabelOrientation | None = None,
    datumaro_format: str = "datumaro",
) -> ActionReport:
    """Convert annotations to index masks with a YAML for ``data=``.

    A broken annotation is an error and the others go on: its bounding box is ignored, or its image left out if it has none.

    Args:
        data: empty, because this action creates a data set.
        out: the output directory, with ``images``, ``labels``, lists of the splits and ``conf/data/<title>.yaml``.
        format, source, image_root, images, title, lists, unlabeled, datumaro_format: see ``conf/action/convert.yaml``.
        classes, names: as in ``make_class_table``.
        order, crowd, boxes, line_px, skip_shapes, ignore_flags, clip_px, label_orientation: as in ``DrawSettings``.
    """
    chosen = {"source": source, "image_root": image_root, "title": title}
    if errors := conversion_errors({"data": data or None, "out": str(out), "action": chosen}):
        raise ConfigError(errors)
    top = Path(source).expanduser()
    annotations = _read(format, top, image_root, label_orientation, datumaro_format)
    if not annotations.images and not annotations.classes and (classes is None or unlabeled == "leave_out"):
        problem = (
            f"{printable(top)}: no annotations of action.format={format} were found. Set another action.format or action.source."
        )
        raise DataError("\n".join([problem, *_limited(annotations.errors), *_limited(annotations.notes)]))
    table = make_class_table(annotations, classes, {str(label).strip(): name for label, name in (names or {}).items()})
    settings = DrawSettings(table, order, crowd, boxes, ignore_flags, clip_px, line_px, skip_shapes, label_orientation)
    palette, name = default_palette(table.classes), conversion_title(source, title)
    given = _read_lists(top, annotations.lists if lists == LISTS and annotations.lists is not None else lists)
    selected = _selected(annotations, unlabeled, ignore_flags)
    with new_conversion(out, [image.image for image in selected if isinstance(image.image, Path)]) as folder:
        converted = write_images(selected, annotations.folder, folder, settings, palette, images)
        errors = [*annotations.errors, *(error for entry in converted for error in entry.errors)]
        if not any(entry.drawn for entry in converted):
            raise DataError(
                "\n".join(["no image could be converted:", *_limited(errors or [f"{printable(top)} holds no annotations."])])
            )
        splits, notes = assign_splits(converted, given)
        write_description(folder, out, name, f"Converted from {format} files", table.classes, palette, splits)
    notes = [*annotations.notes, *class_notes(annotations, table), *_absent_words(annotations, skip_shapes, ignore_flags), *notes]
    return _report(annotations, converted, table, splits, notes, errors, f"--config-dir {shlex.quote(str(out / CONF))} data={name}")


def _read(
    format: Format, source: Path, image_root: str | None, label_orientation: LabelOrientation | None, datumaro_format: str
) -> Annotations:
    """Read all annotations of a source."""
    if source.is_dir():
        top = source
    elif format in ("voc", "supervisely", "datumaro"):
        raise ConfigError(f"action.source={source}: is a file, but action.format={format} reads a folder. Set action.source to it.")
    else:
        top = source.parent.parent if source.parent.name == "annotations" else source.parent
    finder = ImageFinder(
        [top, *([Path(image_root).expanduser()] if image_root else [])],
        "Add it, or set action.image_root to the folder of the images.",
        MASK_FOLDERS if format == "voc" else (),
    )
    readers = {
        "labelme": read_labelme,
        "coco": read_coco,
        "cvat": read_cvat,
        "voc": partial(read_voc, label_orientation=label_orientation),
        "yolo": read_yolo,
        "supervisely": read_supervisely,
        "datumaro": partial(read_datumaro, plugin=datumaro_format),
    }
    return readers[format](source, finder)


def _selected(annotations: Annotations, unlabeled: str, ignore_flags: Sequence[str]) -> list[AnnotatedImage]:
    """Select the images to convert.

    Flagged images are left out, those annotated twice marked, and those without labels added if they count as background.
    """
    kept: list[AnnotatedImage] = []
    for image in annotations.images:
        (kept if set(image.flags).isdisjoint(ignore_flags) else annotations.flagged).append(image)
    if flagged := [image.name for image in annotations.flagged]:
        annotations.notes.append(f"{len(flagged)} images were left out for their flags: {', '.join(flagged[:3])}.")
    first: dict[object, AnnotatedImage] = {}
    for number, image in enumerate(kept):
        other = first.setdefault(image.image, image) if isinstance(image.image, Path) else image
        if other is not image:
            problem = f"its image {printable(image.name)!r} is annotated in {printable(other.source)} as well. Keep one of the two."
            kept[number] = replace(image, problem=problem)
    if annotations.unlabeled and unlabeled == "background":
        return kept + [
            AnnotatedImage(path, path.name, path, split=split, label_orientation="upright") for path, split in annotations.unlabeled
        ]
    if annotations.unlabeled:
        annotations.notes.append(
            f"{len(annotations.unlabeled)} images have no annotation file and were left out, such as "
            f"{printable(annotations.unlabeled[0][0])}. With action.unlabeled=background they are all background."
        )
    return kept


def _absent_words(annotations: Annotations, skip_shapes: Sequence[str], ignore_flags: Sequence[str]) -> list[str]:
    """Note words in ``skip_shapes`` and ``ignore_flags`` that occur nowhere."""
    images = [*annotations.images, *annotations.flagged]
    regions = [region for image in images for region in image.regions]
    kinds = {str(shape.get("shape_type") or "polygon") for region in regions for shape in region.shapes if isinstance(shape, dict)}
    flags = {flag for holder in (*regions, *images) for flag in holder.flags}
    found = {"skip_shapes": (skip_shapes, kinds), "ignore_flags": (ignore_flags, flags)}
    return [
        f"action.{key}: {word!r} occurs nowhere; found: {', '.join(sorted(own)) or 'none'}."
        for key, (words, own) in found.items()
        for word in words
        if word not in own
    ]


def _read_lists(source: Path, pattern: str | None) -> dict[Split, list[str]]:
    """Read the lists of the splits below a source that exist."""
    if pattern is None or not source.is_dir():
        return {}
    paths: dict[Split, Path] = {split: source / pattern.replace("{split}", split) for split in SPLITS}
    return {split: read_list(path) for split, path in paths.items() if path.is_file()}


def _report(
    annotations: Annotations,
    converted: Sequence[Converted],
    table: ClassTable,
    splits: dict[Split, list[str]],
    notes: list[str],
    errors: list[str],
    command: str,
) -> ActionReport:
    """Summarize the annotations read and the masks written."""
    written = [entry for entry in converted if entry.drawn is not None]
    left_out = [*(entry.image.name for entry in converted if entry.drawn is None), *(image.name for image in annotations.flagged)]
    counts, by_class, pixels, images = Counter[str](), Counter[int](), Counter[int](), Counter[int]()
    for entry in written:
        assert entry.drawn is not None
        counts.update(entry.drawn.counts)
        by_class.update(entry.drawn.by_class)
        pixels.update(entry.pixels)
        images.update(entry.pixels.keys())
    total = sum(_count(image) for image in annotations.images) + annotations.lost + annotations.without_pixels
    fates = {name: counts[name] for name in ("drawn", "ignored", "skipped", "broken")}
    fates |= {"without pixels": annotations.without_pixels, "without an image": annotations.lost}
    fates["of images left out"] = total - sum(fates.values())
    share = {number: f"{pixels[number] / max(sum(pixels.values()), 1):.2%}" for number in pixels}
    rows = [(name, number, images[number], by_class[number], share.get(number, "0.00%")) for name, number in _rows(table)]
    lines = [
        f"images: {len(written) + len(left_out)}, of which {len(written)} were written"
        + (f" ({', '.join(f'{split} {len(stems)}' for split, stems in splits.items())})" if splits else ""),
        f"annotations: {total}, of which "
        + ", ".join(f"{count} {name}" for name, count in fates.items() if count or name == "drawn"),
        *(f"note: {note}" for note in notes),
        f"train: python tools/train.py {command}",
    ]
    text = markdown_table(("class", "id", "images", "annotations", "pixels"), rows) + "\n" + "\n".join(lines)
    result: PlainDict = {
        "images": {"read": len(written) + len(left_out), "written": len(written), "left_out": left_out},
        "annotations": {"read": total} | fates,
        "classes": {
            name: {"id": n, "images": images[n], "annotations": by_class[n], "pixels": pixels[n]} for name, n in _rows(table)
        },
        "splits": {split: len(stems) for split, stems in splits.items()},
        "notes": notes,
        "errors": errors,
    }
    return ActionReport(text, result, _limited(errors))


def _rows(table: ClassTable) -> list[tuple[str, int]]:
    numbered = [(name, number) for number, name in enumerate(table.classes) if name != "ignore"]
    return [*numbered, ("ignored", 255)]


def _count(image: AnnotatedImage) -> int:
    return sum(region.count for region in image.regions) + (image.mask is not None)


def _limited(errors: list[str]) -> list[str]:
    """Merge the same problem of several files, and list a limited number."""
    errors = group_errors(((), error) for error in errors)
    more = [f"... and {len(errors) - MAX_LISTED} more"] if len(errors) > MAX_LISTED else []
    return errors[:MAX_LISTED] + more
