"""The action ``stats``: statistics of a data set."""

from __future__ import annotations

from pathlib import Path

from segzoo.data.statistics.measure import measure_split
from segzoo.io import write_text
from segzoo.registry import ACTIONS
from segzoo.reporting.blocks.plots import MISSING, can_plot
from segzoo.reporting.statistics import class_table, image_table, overrides, plain_statistics, statistics_page
from segzoo.reporting.statistics_plots import write_plots
from segzoo.reporting.tables import markdown_table
from segzoo.types import PlainMapping
from segzoo.workflows.dataset._report import ActionReport, existing_splits


@ACTIONS.register
def stats(data: PlainMapping, out: Path) -> ActionReport:
    """Measure every image and label of a data set.

    The settings to paste are measured on train, or on the whole data set if it has no splits.

    Args:
        data: the ``data`` section.
        out: the output directory, which gets ``stats.html`` and ``plots/``.
    """
    splits = {name: measure_split(name, dataset) for name, dataset in existing_splits(data).items()}
    source, first = next(iter(splits.items()))
    pasted = overrides(first)
    notes = [] if source in ("train", "all") else [f"there is no train, so the settings were measured on {source}."]
    plots = [str(path.relative_to(out)) for path in write_plots(out / "plots", splits)] if can_plot() else []
    notes += [] if plots else [MISSING]
    write_text(out / "stats.html", statistics_page(data.get("title", data["name"]), splits, pasted, notes))
    lines = [f"note: {note}" for note in notes]
    lines += [f"{name} of {source}:\n  {override}" for name, override in pasted.items()]
    lines.append(f"page: {out / 'stats.html'}")
    text = "\n".join([markdown_table(*image_table(splits)), markdown_table(*class_table(splits)), *lines])
    return ActionReport(
        text, {"splits": plain_statistics(splits), "settings": pasted, "measured_on": source, "plots": plots, "notes": notes}
    )
