"""The action ``verify``: a complete check of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from segzoo.config.build import build_data
from segzoo.data.checks.label_survey import add_counts
from segzoo.data.paired_dataset import PairedDataset
from segzoo.data.verification.complete import Verification, verify_splits
from segzoo.registry import ACTIONS, ConfigError
from segzoo.reporting.tables import markdown_table
from segzoo.types import DataError, Dataset, PlainDict, PlainMapping
from segzoo.workflows.dataset._report import ActionReport, existing_splits

MAX_VALUES = 40  # rows of a table


@ACTIONS.register
def verify(data: PlainMapping, out: Path) -> ActionReport:
    """Check every file of a data set.

    Args:
        data: the ``data`` section.
        out: the output directory.
    """
    splits = existing_splits(data)
    found = verify_splits(splits)
    results = {name: _split_result(name, splits[name], found) for name in found.reports}
    missing = _missing_splits(data, splits)
    findings = [finding._asdict() | {"images": list(finding.images)} for finding in found.findings]
    notes = "".join(f"note: {note}\n" for note in [*missing, *found.notes])
    return ActionReport(
        f"{_tables(results)}\n{notes}", {"splits": results, "findings": findings, "missing_splits": missing}, found.errors
    )


def _missing_splits(data: PlainMapping, splits: Mapping[str, Dataset]) -> list[str]:
    """Say what a training would lack, one line for each split."""
    missing = []
    for split in {"train", "val"} - set(splits):
        try:
            build_data(data, split).scan()
        except (ConfigError, DataError) as error:  # the former if nothing separates the splits
            missing.append(str(error))
    return sorted(missing)


def _split_result(name: str, dataset: Dataset, found: Verification) -> PlainDict:
    """Plain values that describe a split."""
    report, surveys = found.reports[name], found.surveys.get(name, [])
    values = add_counts(survey.labels.counts for survey in surveys if survey.labels)
    train_ids = {}
    if isinstance(dataset, PairedDataset) and any(report.class_fractions.values()):
        train_ids = {value: next(iter(dataset.reader.train_ids({value: 1}))) for value in values}
    return {
        "images": report.num_images,
        "read": report.num_read,
        "sizes": {f"{width}x{height}": count for (height, width), count in Counter(report.sizes).most_common()},
        "kinds": dict(Counter(survey.image.kind for survey in surveys if survey.image).most_common()),
        "ignored_fraction": report.ignored_fraction,
        "class_fractions": report.class_fractions,
        "absent_classes": list(report.absent_classes),
        "values": {str(value): pixels for value, pixels in values.items()},
        "train_ids": {str(value): train_id for value, train_id in train_ids.items()},
    }


def _tables(results: PlainMapping) -> str:
    """Markdown tables of splits, classes and label values."""
    rows = [
        (name, one["images"], one["read"], _listed(one["sizes"]), _listed(one["kinds"]), f"{one['ignored_fraction']:.1%}")
        for name, one in results.items()
    ]
    tables = [markdown_table(("split", "images", "read without error", "sizes (W x H)", "kinds", "ignored"), rows)]
    classes = list(dict.fromkeys(name for one in results.values() for name in one["class_fractions"]))
    shares = [(name, *(_share(one, name) for one in results.values())) for name in classes]
    tables.append(markdown_table(("class", *(f"{name}, labeled pixels" for name in results)), shares))
    values = sorted({int(value) for one in results.values() for value in one["values"]})
    if 0 < len(values) <= MAX_VALUES:
        train_ids = {value: train_id for one in results.values() for value, train_id in one["train_ids"].items()}
        pixels = [(v, train_ids.get(str(v)), *(one["values"].get(str(v), 0) for one in results.values())) for v in values]
        tables.append(markdown_table(("value", "train id", *(f"{name}, pixels" for name in results)), pixels))
    return "\n".join(tables)


def _share(result: PlainMapping, name: str) -> str:
    """Share of a class, or a dash if no labels were counted."""
    fractions = result["class_fractions"]
    return f"{fractions[name]:.2%}" if any(fractions.values()) or result["ignored_fraction"] == 1 else "-"


def _listed(counts: PlainMapping, most: int = 3) -> str:
    """Numbers of the most frequent kinds."""
    shown = ", ".join(f"{count} {kind}" for kind, count in list(counts.items())[:most])
    return shown + (f", {len(counts) - most} more" if len(counts) > most else "")
