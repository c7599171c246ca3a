"""The action ``browse``: a page with all images and their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

from segzoo.data.verification.complete import verify_splits
from segzoo.progress import with_progress
from segzoo.registry import ACTIONS, Range
from segzoo.reporting.image_page import MaxPixels, image_entry, unreadable_entry, write_page, write_thumbnails
from segzoo.reporting.tables import markdown_table
from segzoo.resources import cpu_cores
from segzoo.types import DataError, Dataset, PlainDict, PlainMapping
from segzoo.workflows.dataset._report import ActionReport, existing_splits

PAGE = "browse.html"


@ACTIONS.register
def browse(
    data: PlainMapping,
    out: Path,
    *,
    limit: Annotated[int, Range(1, 1_000_000)] | None = None,
    max_pixels: MaxPixels = 240_000,
    check: bool = True,
) -> ActionReport:
    """Write a page with images and their labels.

    Args:
        data: the ``data`` section.
        out: the output directory.
        limit: most images per split, evenly spread over it. None shows all.
        max_pixels: pixels of an image on the page. Larger images are downscaled.
        check: whether to run ``action=verify`` as well, for its findings on single images.
    """
    splits = existing_splits(data)
    found = verify_splits(splits).findings if check else []
    by_image: dict[str, list[int]] = {}
    for position, finding in enumerate(found):
        for image in finding.images:
            by_image.setdefault(image, []).append(position)
    chosen = [(name, index) for name, dataset in splits.items() for index in evenly_spread(len(dataset), limit)]

    def draw(number: int) -> tuple[PlainDict, int]:
        name, index = chosen[number]
        own = by_image.get(f"{name}/{splits[name].name(index)}", [])
        entry, size = _draw(splits[name], name, index, number, out, max_pixels)
        return entry | {"findings": own}, size

    with ThreadPoolExecutor(cpu_cores()) as pool:
        drawn = list(with_progress(pool.map(draw, range(len(chosen))), len(chosen), "images", "drawing"))
    images = [entry for entry, _ in drawn]
    info = next(iter(splits.values())).info
    listed = [{"kind": finding.kind, "text": finding.text} for finding in found]
    write_page(out / PAGE, f"{info.name}: {len(images)} images", images, info, ("label",), listed)
    return _report(out / PAGE, images, splits, sum(size for _, size in drawn))


def evenly_spread(count: int, limit: int | None) -> Sequence[int]:
    """At most ``limit`` numbers below ``count``, evenly spread."""
    if limit is None or count <= limit:
        return range(count)
    return [position * count // limit for position in range(limit)]


def _draw(dataset: Dataset, split: str, index: int, number: int, out: Path, max_pixels: int) -> tuple[PlainDict, int]:
    """Draw one image.

    Returns:
        Its entry on the page, and the size of its files in bytes.
    """
    try:
        sample = dataset[index]
    except DataError as error:
        return unreadable_entry(dataset.name(index), split, str(error)), 0
    size = write_thumbnails(out, number, sample.image, {"label": sample.label}, dataset.info, max_pixels)
    return image_entry(sample, split, dataset.info, number), size


def _report(page: Path, images: Sequence[PlainDict], splits: Mapping[str, Dataset], size: int) -> ActionReport:
    """Summarize the page by split."""
    rows = []
    for name, dataset in splits.items():
        own = [image for image in images if image["split"] == name]
        unreadable = sum(image["size"] is None for image in own)
        rows.append((name, len(dataset), len(own), unreadable, sum(bool(image["findings"]) for image in own)))
    text = markdown_table(("split", "images", "on the page", "unreadable", "with findings"), rows)
    summary = {"page": str(page), "bytes": size + page.stat().st_size, "images": len(images)}
    return ActionReport(f"{text}\n{page}: {summary['bytes'] / 1e6:.1f} MB with its thumbnails\n", summary)
