"""The action ``verify``: a complete check of a data set."""

from __future__ import annotations

from pathlib import Path

from segzoo.data.checks.check import check_splits
from segzoo.registry import ACTIONS
from segzoo.reporting.tables import markdown_table
from segzoo.types import DataError, PlainMapping
from segzoo.workflows.dataset._report import ActionReport, existing_splits


@ACTIONS.register
def verify(data: PlainMapping, out: Path) -> ActionReport:
    """Check every file of a data set.

    Args:
        data: the ``data`` section.
        out: the output directory.
    """
    splits = existing_splits(data)
    try:
        reports = check_splits(splits)
    except DataError as error:
        return ActionReport("", {"errors": str(error).splitlines()}, str(error).splitlines())
    rows = [(split, report.num_images, f"{report.ignored_fraction:.1%}") for split, report in reports.items()]
    notes = [f"{split}: {line}" for split, report in reports.items() for line in report.warnings()]
    text = markdown_table(("split", "images", "ignored"), rows) + "".join(f"note: {note}\n" for note in notes)
    return ActionReport(text, {"splits": {split: report.class_fractions for split, report in reports.items()}, "notes": notes})
