"""Sections about an evaluation: classes, confusions, images and provenance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from segzoo.evaluation.bootstrap import MIN_IMAGES, counts_by_group, mean_iou
from segzoo.evaluation.metrics import COUNTS
from segzoo.evaluation.score_table import class_scores
from segzoo.messages import printable
from segzoo.reporting.blocks.bars import BarRow, share_bar
from segzoo.reporting.blocks.curves import read_rows, training_plots
from segzoo.reporting.blocks.matrices import MAX_CLASSES, confusion_plot, confusion_table
from segzoo.reporting.blocks.panels import Example, embed_images, legend
from segzoo.reporting.blocks.plots import MISSING, can_plot
from segzoo.reporting.blocks.score_plots import score_facts, score_plots
from segzoo.reporting.numbers import format_interval
from segzoo.types import Dataset, DatasetInfo, PlainDict, PlainMapping
from segzoo.workflows.compare.evaluations import StoredEvaluation
from segzoo.workflows.report.failures import Failure, choose_examples, confusion_matrix, find_failures
from segzoo.workflows.report.provenance import Facts, provenance, read_json

LISTED = 5  # images of a confusion
GROUPS = {
    "Worst images": "Where the network fails: hard images, unusual scenes, or wrong labels.",
    "Median images": "What to expect of a usual image.",
    "Best images": "Where the network has no difficulties.",
    "All images": "The worst come first.",
}

Predict = Callable[[np.ndarray], np.ndarray]  # image (H, W, C) uint8 or uint16 -> train ids


def evaluation_sections(
    evaluation: StoredEvaluation,
    dataset: Dataset,
    info: DatasetInfo,
    predict: Predict,
    run: Path | None,
    best_step: int | None,
    speed: Facts,
    changes: Sequence[tuple[str, str, str]],
) -> PlainDict:
    """Collect what ``run_sections.html`` shows.

    Only the images on the page are predicted. Everything else comes from the files of the evaluation.

    Args:
        evaluation: the stored evaluation.
        dataset: its images and labels.
        info: classes and palette.
        predict: predicts an image as the evaluation did.
        run: the directory of the training, None if it is unknown.
        best_step: step of the evaluated checkpoint.
        speed: facts about speed and size.
        changes: as ``changed_settings`` returns.
    """
    summary, counts = evaluation.summary, evaluation.counts
    errors = np.load(evaluation.folder / "per_image_errors.npy")
    matrix, failures = confusion_matrix(counts, errors), find_failures(counts, errors)
    groups, examples = _examples(evaluation, errors, failures, dataset, predict)
    embed_images(list(examples.values()), info)
    can_draw = can_plot()
    training_env = {} if run is None else read_json(run / "env.json")
    many = can_draw and len(evaluation.classes) > MAX_CLASSES
    return {
        "tiles": _tiles(summary, speed),
        "highlights": _highlights(evaluation, failures),
        "missing": None if can_draw else MISSING,
        "curves": training_plots(read_rows(run / "metrics.jsonl"), best_step) if can_draw and run is not None else [],
        "has_curves": run is not None and (run / "metrics.jsonl").is_file(),
        "classes": class_rows(evaluation),
        "has_intervals": summary["miou_interval"] is not None,
        "drawn": "images" if summary.get("groups") is None else "groups of images",
        "min_images": MIN_IMAGES,
        "confusion": confusion_table(matrix, evaluation.classes),
        "overview": [confusion_plot(matrix)] if many else [],
        "failures": [_failure(failure, evaluation, examples) for failure in failures],
        "groups": [(name, GROUPS[name], [examples[index] for index in indices]) for name, indices in groups.items()],
        "legend": legend(list(examples.values()), info),
        "score_facts": score_facts(summary),
        "scores": score_plots(summary, evaluation.folder) if can_draw else [],
        "speed": speed,
        "provenance": provenance(summary, read_json(evaluation.folder / "env.json"), training_env),
        "changes": changes,
    }


def _tiles(summary: PlainMapping, speed: Facts) -> Facts:
    interval, groups = summary["miou_interval"], summary.get("groups")
    too_few = "too few images" if groups is None else "too few groups"
    shown = [
        ("mIoU", f"{100 * summary['miou']:.1f} %"),
        ("95 % interval", format_interval(interval, 1) if interval else too_few),
        *([] if groups is None else [("groups of images", f"{groups:,}")]),
        ("pixels right", f"{100 * summary['aacc']:.1f} %"),
        (f"images of {summary['split']}", f"{summary['images']:,}"),
        ("protocol", summary["protocol_id"]),
    ]
    return shown + [(name, value) for name, value in speed if name.startswith(("parameters", "GMACs"))]


def _highlights(evaluation: StoredEvaluation, failures: Sequence[Failure]) -> list[str]:
    """Sentences on what to look at first."""
    scored = [(name, entry["iou"]) for name, entry in evaluation.summary["per_class"].items() if entry["iou"] is not None]
    scored.sort(key=lambda item: item[1])
    weakest = scored[: max(1, min(3, len(scored) // 2))]
    listed = ", ".join(f"{name} (IoU {100 * iou:.1f} %)" for name, iou in weakest)
    sentences = [f"The weakest {'class is' if len(weakest) == 1 else 'classes are'} {listed}."]
    predicted = evaluation.counts[:, COUNTS.index("predicted")].sum(0)
    never = [name for name, pixels in zip(evaluation.classes, predicted, strict=True) if pixels == 0 and name in dict(scored)]
    if never:
        sentences.append(f"Never predicted although labeled: {', '.join(never[:5])}{' and others' if len(never) > 5 else ''}.")
    if failures:
        first = failures[0]
        label, prediction = (evaluation.classes[k] for k in (first.label, first.prediction))
        share = f"{100 * first.share:.0f}" if first.share >= 0.01 else f"{100 * first.share:.1g}"
        sentences.append(f"The confusion that costs most: {share} % of the pixels of {label} are predicted as {prediction}.")
    return sentences


def class_rows(evaluation: StoredEvaluation) -> list[BarRow]:
    """Scores of each class, the worst first and absent ones last."""
    drawn = counts_by_group(evaluation.counts, evaluation.image_names or (), evaluation.summary.get("group_by"))
    rows = []
    for row in class_scores(evaluation.summary["per_class"], evaluation.counts, drawn):
        bounds = format_interval(row.interval, 1) if row.interval else "–"
        scores = [_percent(row.values[key]) for key in ("acc", "precision", "f1")]
        cells = [_percent(row.values["iou"]), bounds, *scores, str(row.images), f"{100 * row.share:.2f} %"]
        rows.append(BarRow(row.name, share_bar(row.values["iou"], row.interval), cells))
    return rows


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _examples(
    evaluation: StoredEvaluation, errors: np.ndarray, failures: Sequence[Failure], dataset: Dataset, predict: Predict
) -> tuple[dict[str, list[int]], dict[int, Example]]:
    """Predict the images of the page, each once.

    Returns:
        The groups of images, and the example of each image by its index.
    """
    groups = choose_examples(evaluation.counts)
    chosen = [index for indices in groups.values() for index in indices]
    examples = {}
    for index in dict.fromkeys([*chosen, *(failure.images[0][0] for failure in failures)]):
        sample = dataset[index]
        caption = _caption(evaluation, errors[errors[:, 0] == index], index)
        examples[index] = Example(printable(sample.name), caption, sample.image, sample.label, {"model": predict(sample.image)})
    return groups, examples


def _caption(evaluation: StoredEvaluation, errors: np.ndarray, index: int) -> str:
    """Score of an image, and its largest confusion."""
    counts = evaluation.counts[index]
    labeled = max(int(counts[COUNTS.index("labeled")].sum()), 1)
    text = (
        f"mIoU {100 * float(mean_iou(counts)):.1f} %, {100 * errors[:, 3].sum() / labeled:.1f} % of its labeled pixels are wrong."
    )
    if not len(errors):
        return text
    _, label, prediction, pixels = errors[errors[:, 3].argmax()]
    names = evaluation.classes[label], evaluation.classes[prediction]
    return f"{text} Most of them: {names[0]} predicted as {names[1]}, {100 * pixels / labeled:.1f} % of the labeled pixels."


def _failure(failure: Failure, evaluation: StoredEvaluation, examples: dict[int, Example]) -> PlainDict:
    label, prediction = (evaluation.classes[k] for k in (failure.label, failure.prediction))
    names = evaluation.image_names or tuple(f"number {index}" for index in range(len(evaluation.counts)))
    listed = ", ".join(f"{printable(names[index])} ({pixels:,} pixels)" for index, pixels in failure.images[:LISTED])
    return {
        "title": f"{label} predicted as {prediction}",
        "text": f"{failure.pixels:,} pixels, {100 * failure.share:.1f} % of {label}, in {len(failure.images)} of "
        f"{len(evaluation.counts)} images. If they were right, the mIoU would be {100 * failure.cost:.2f} points higher.",
        "images": f"Most of them in {listed}.",
        "example": examples[failure.images[0][0]],
    }
