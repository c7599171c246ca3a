"""The action ``suspects``: images whose labels a trained network contradicts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np

from segzoo.config.build import build_data
from segzoo.config.from_checkpoint import dataset_config, load_checkpoint
from segzoo.data.inspection.label_errors import ClassConfidence, Region, contradicting_regions, region_score
from segzoo.data.splits import SplitOrAll
from segzoo.io import csv_text, write_text
from segzoo.progress import with_progress
from segzoo.registry import ACTIONS, ConfigError, Range
from segzoo.reporting.image_page import MaxPixels, image_entry, remove_thumbnails, write_page, write_thumbnails
from segzoo.reporting.tables import markdown_table
from segzoo.resources import cpu_cores
from segzoo.types import DatasetInfo, DeviceName, PlainDict, PlainMapping, PrecisionName, Sample
from segzoo.workflows.dataset._folds import mean_probabilities, networks_by_image
from segzoo.workflows.dataset._report import ActionReport

PAGE, TABLE = "suspects.html", "suspects.csv"
COLUMNS = ("rank", "image", "score", "label", "prediction", "left", "top", "width", "height", "pixels")
MAX_REGIONS = 5  # boxes in an image
MAX_LISTED = 20  # rows on the terminal

T = TypeVar("T")


@ACTIONS.register
def suspects(
    data: PlainMapping,
    out: Path,
    *,
    ckpt: str | tuple[str, ...],
    held_out: tuple[str, ...] | None = None,
    split: SplitOrAll = "train",
    boundary: Annotated[int, Range(0, 1000)] | None = None,
    min_area: Annotated[float, Range(0, 1)] = 0.0002,
    limit: Annotated[int, Range(1, 1_000_000)] = 200,
    max_pixels: MaxPixels = 240_000,
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
) -> ActionReport:
    """Rank labeled images by how confidently a network contradicts their labels.

    Writes ``suspects.csv`` with all images, and a page with the most suspicious ones.

    Args:
        data: the ``data`` section. If it is empty or has no name, the checkpoint's is used.
        out: the output directory.
        ckpt: a run directory or checkpoint, or several that were trained on different parts of the images.
        held_out: a text file for each checkpoint, which lists the images that it was not trained on and that it judges, one stem per line.
            None judges all images with one checkpoint. It may have learned errors of images that it was trained on.
        split: the images.
        boundary, min_area: tolerance at boundaries and smallest region, see ``contradicting_regions``.
        limit: most images on the page.
        max_pixels: pixels of an image on the page. Larger images are downscaled.
        device, precision: device of the network and precision of its layers.
    """
    from segzoo.device import Precision, pick_device

    paths = (ckpt,) if isinstance(ckpt, str) else ckpt
    if not paths:
        raise ConfigError("action.ckpt is empty. Give a run directory: action.ckpt=<run directory>.")
    loaded = [load_checkpoint(ckpt=path) for path in paths]
    dataset = [build_data(dataset_config(meta, data or None, split), split) for _, _, meta in loaded][0]
    judges, info = networks_by_image(dataset, paths, held_out), dataset.info
    layer_precision, confidence = Precision(precision, pick_device(device)), ClassConfidence(info.num_classes)
    networks = [(layer_precision.place(model, channels_last=True), own_info) for model, own_info, _ in loaded]

    def predict(index: int) -> tuple[int, Sample, np.ndarray]:
        sample = dataset[index]
        probabilities = mean_probabilities([networks[number] for number in judges[index]], sample.image, layer_precision)
        confidence.add(sample.label, probabilities, info)
        return index, sample, probabilities

    def examine(index: int, sample: Sample, probabilities: np.ndarray) -> tuple[PlainDict, list[Region]]:
        regions = contradicting_regions(sample.label, probabilities, info, boundary, min_area)
        layers = {"label": sample.label, "prediction": probabilities.argmax(0).astype(sample.label.dtype)}
        write_thumbnails(out, index, sample.image, layers, info, max_pixels)
        return image_entry(sample, split, info, index), regions

    judged = [index for index, own in enumerate(judges) if own]
    examined = _in_threads(examine, map(predict, judged))
    images = _ranked(list(with_progress(examined, len(judged), "images", "predicting")), confidence.means())
    notes = _notes(len(dataset) - len(judged), held_out is not None)
    return _write_results(out, images, info, limit, notes)


def _notes(unjudged: int, has_lists: bool) -> list[str]:
    """List remarks on the ranking."""
    if not has_lists:
        return [
            "a network hides errors that it has learned. Where it was trained on these images, train several on a part each, and set "
            "action.held_out."
        ]
    return [f"{unjudged} images are in no list of action.held_out and are not ranked."] if unjudged else []


def _in_threads(function: Callable[..., T], items: Iterable[tuple]) -> Iterator[T]:
    """Call a function on each item in threads, in order.

    At most as many items as the machine has cores are waiting, which limits the memory.
    """
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(cpu_cores()) as pool:
        for item in items:
            pending.append(pool.submit(function, *item))
            if len(pending) > cpu_cores():
                yield pending.popleft().result()
        for future in pending:
            yield future.result()


def _ranked(examined: Sequence[tuple[PlainDict, list[Region]]], confidence: np.ndarray) -> list[PlainDict]:
    """Add scored regions to the entries and sort these by the worst."""
    images = []
    for entry, regions in examined:
        scored = sorted(((region_score(region, confidence), region) for region in regions), key=lambda pair: -pair[0])
        listed = [
            region._asdict() | {"box": list(region.box), "score": score} for score, region in scored[:MAX_REGIONS] if score > 0
        ]
        images.append(entry | {"score": listed[0]["score"] if listed else 0.0, "regions": listed, "findings": []})
    return sorted(images, key=lambda image: -image["score"])


def _write_results(out: Path, images: list[PlainDict], info: DatasetInfo, limit: int, notes: list[str]) -> ActionReport:
    """Write the table and the page, and summarize them."""
    rows = [_row(rank, image, info) for rank, image in enumerate(images, 1)]
    write_text(out / TABLE, csv_text([COLUMNS, *rows]))
    for image in images[limit:]:
        remove_thumbnails(out, image["number"])
    title = f"{info.name}: {min(limit, len(images))} most suspicious of {len(images)} images"
    write_page(out / PAGE, title, images[:limit], info, ("label", "prediction"))
    shown = [(*row[:5], f"{row[9]:,}" if row[9] else None) for row in rows[:MAX_LISTED]]
    text = markdown_table((*COLUMNS[:5], COLUMNS[9]), shown) + "".join(f"note: {note}\n" for note in notes)
    result = {"table": str(out / TABLE), "page": str(out / PAGE), "images": len(images), "notes": notes}
    return ActionReport(f"{text}\n{out / PAGE}: {min(limit, len(images))} images\n{out / TABLE}: all images\n", result)


def _row(rank: int, image: PlainDict, info: DatasetInfo) -> tuple:
    """Row of an image in the table, with its most suspicious region."""
    if not image["regions"]:
        return rank, image["name"], "0.0000", *[None] * 7
    worst = image["regions"][0]
    names = (info.classes[worst[key]] for key in ("label", "prediction"))
    return rank, image["name"], f"{worst['score']:.4f}", *names, *worst["box"], worst["pixels"]
