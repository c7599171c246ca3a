"""Leaderboard of the runs in a folder, as plain values.

Scores of different protocols, images, labels or classes are not comparable: each gets a table of its own.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from segzoo.data.splitting.patterns import group_pattern_error
from segzoo.messages import did_you_mean, relative_to
from segzoo.registry import ConfigError, Range
from segzoo.types import PlainDict, PlainMapping
from segzoo.workflows.compare.evaluations import unique_names
from segzoo.workflows.leaderboard.entries import SCORES, Entry, read_entries
from segzoo.workflows.leaderboard.filters import Pattern, Times, Where, check_names, matches
from segzoo.workflows.leaderboard.front import best_within, pareto_front
from segzoo.workflows.leaderboard.scan import Unranked, find_folders, printable_values, read_config
from segzoo.workflows.leaderboard.times import KEYS, Timing, choose_times, read_timings
from segzoo.workflows.leaderboard.verdicts import compare_with_best

WHERE = ("model", "backbone", "data", "split", "protocol")
Sort = Literal["miou", "macc", "ms", "parameters", "gmacs", "name"]
HIGHER_IS_BETTER = ("miou", "macc")


def rank_runs(
    *,
    runs: tuple[str, ...] = ("runs",),
    where: Where | None = None,
    times: Times | None = None,
    sort: Sort = "miou",
    budget_ms: Annotated[float, Range(0, 1e9, above=True)] | None = None,
    max_compared: Annotated[int, Range(0, 1000)] = 50,
    group_by: str | None = None,
) -> PlainDict:
    """Rank the runs and evaluations in folders.

    Args:
        runs: folders with runs, evaluations and benchmarks at any depth.
        where: the rows to show, by the names in ``WHERE``. A protocol is named by its id or mode.
        times: the measured times that count, by the names in ``times.KEYS``.
        sort: order of the rows, best first. Rows without the value come last.
        budget_ms: milliseconds per image for which the best row is named.
        max_compared: most rows of a table that are compared with its best one on the same images. 0 compares none.
        group_by: as in ``compare_evaluations``.

    Returns:
        ``tables``, each with ``rows`` and the values that they share; ``unranked``, the directories without a usable score; and the
        settings.

    Raises:
        ConfigError: a folder does not exist, a filter is unknown, or it fits none of the rows.
        DataError: an image has no group.
    """
    where, times = where or {}, times or {}
    _check(runs, where, times, group_by)
    found = find_folders(runs)
    entries, unranked = read_entries(found)
    timings, broken = read_timings([*found.benchmarks, *found.jobs])
    by_checkpoint: dict[str, list[Timing]] = defaultdict(list)
    for timing in timings:
        by_checkpoint[timing.checkpoint].append(timing)
    folders = [entry.folder for entry in entries]
    names = dict(zip(folders, unique_names(folders), strict=True))
    tables = []
    shown = [entry for entry in entries if matches(where, _values(entry))]
    left_out = [one for one in unranked if _is_asked_for(one, where)] + broken
    if entries and not shown and not left_out:
        raise ConfigError(_no_match(entries, where))
    for members in _groups(shown, names):
        table = _compared(_table(members, names, by_checkpoint, times, budget_ms), members, max_compared, group_by)
        rows = sorted(table["rows"], key=lambda row: sort_key(row, sort))  # stable: by mIoU within equal values
        tables.append(table | {"rows": rows})
    result = {
        "tables": sorted(tables, key=lambda table: (-len(table["rows"]), table["data"], table["protocol_id"])),
        "unranked": [{"folder": str(one.folder), "reason": one.reason} for one in left_out],
        "runs": list(runs),
        "where": {name: pattern for name, pattern in where.items() if pattern is not None},
        "times": {name: pattern for name, pattern in times.items() if pattern is not None},
        "sort": sort,
        "budget_ms": budget_ms,
    }
    return printable_values(result)


def _check(runs: Sequence[str], where: Where, times: Times, group_by: str | None) -> None:
    """Raise ConfigError for folders that do not exist and unknown filters."""
    check_names("where", where, WHERE)
    check_names("times", times, KEYS)
    errors = [f"runs: {run} is not a directory{relative_to(run)}." for run in runs if not os.path.isdir(run)]
    if not runs:
        errors.append("runs: there is nothing to rank. Name a folder: tools/leaderboard.py runs")
    if group_by is not None and (error := group_pattern_error("group_by", group_by)):
        errors.append(error)
    if errors:
        raise ConfigError(errors)


def _groups(entries: Sequence[Entry], names: Mapping[Path, str]) -> list[list[Entry]]:
    """Group comparable entries, the best of each group first."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: (-entry.summary["miou"], names[entry.folder])):
        groups[entry.group].append(entry)
    return list(groups.values())


def _compared(table: PlainDict, members: Sequence[Entry], max_compared: int, group_by: str | None) -> PlainDict:
    """Add the verdicts to a table, with intervals over the same units."""
    verdicts, intervals, notes = compare_with_best(members, max_compared, group_by)
    intervals = intervals or [row["interval"] for row in table["rows"]]
    rows = [
        row | {"verdict": verdict, "interval": interval}
        for row, verdict, interval in zip(table["rows"], verdicts, intervals, strict=True)
    ]
    return table | {"rows": rows, "notes": table["notes"] + notes, "group_by": group_by}


def sort_key(row: PlainMapping, sort: str) -> tuple[bool, float | str]:
    """Key that sorts rows best first, and those without a value last."""
    value = row[sort]
    return value is None, "" if value is None else -value if sort in HIGHER_IS_BETTER else value


def _table(
    members: Sequence[Entry],
    names: Mapping[Path, str],
    timings: Mapping[str, Sequence[Timing]],
    wanted: Mapping[str, Pattern],
    budget_ms: float | None,
) -> PlainDict:
    """Describe comparable entries, the best one first."""
    chosen = choose_times(members, timings, wanted)
    rows = [_row(entry, names[entry.folder], time) for entry, time in zip(members, chosen.fastest, strict=True)]
    timed = [row for row in rows if row["ms"] is not None]
    points = [(row["ms"], row["miou"]) for row in timed]
    for number, index in enumerate(pareto_front(points), 1):
        timed[index]["front"] = number
    within = None if budget_ms is None else best_within(points, budget_ms)
    summary = members[0].summary
    return {
        "data": summary["protocol"]["data"],
        "split": summary["split"],
        "images": summary["protocol"].get("images"),
        "classes": list(summary["per_class"]),
        "protocol_id": summary["protocol_id"],
        "protocol": summary["protocol"],
        "setup": None if chosen.setup is None else {"text": str(chosen.setup)} | chosen.setup._asdict(),
        "best_within_budget": None if within is None else timed[within]["name"],
        "notes": chosen.notes,
        "rows": rows,
    }


def _row(entry: Entry, name: str, time: Timing | None) -> PlainDict:
    values = {"name": name, "folder": str(entry.run), "model": entry.model, "backbone": entry.backbone}
    values |= {"seed": entry.seed, "interval": entry.summary["miou_interval"], "checkpoint_sha256": entry.checkpoint}
    values |= {key: entry.summary[key] for key in SCORES} | {"parameters": entry.parameters, "gmacs": None, "ms": None}
    if time is not None:
        values |= {"parameters": entry.parameters or time.parameters, "gmacs": time.gmacs, "ms": time.ms}
    return values | {"time": time and time.to_dict(), "front": None, "verdict": None}


def _values(entry: Entry) -> dict[str, tuple[object, ...]]:
    """Values of an entry for the filters in ``WHERE``."""
    summary = entry.summary
    protocol = (summary["protocol_id"], summary["protocol"].get("mode"))
    own = {"model": (entry.model,), "backbone": (entry.backbone,), "data": (summary["protocol"]["data"],)}
    return own | {"split": (summary["split"],), "protocol": protocol}


def _no_match(entries: Sequence[Entry], where: Where) -> list[str]:
    """Say which values the filters could have."""
    errors = []
    for name, pattern in where.items():
        if pattern is not None and not any(matches({name: pattern}, _values(entry)) for entry in entries):
            known = sorted({str(value) for entry in entries for value in _values(entry)[name] if value is not None})
            close = next((hint for one in _patterns(pattern) if (hint := did_you_mean(str(one), known))), "")
            errors.append(f"{_override(name, pattern)}: no evaluation has it.{close} They have: {', '.join(known) or 'none'}.")
    wanted = " ".join(_override(name, pattern) for name, pattern in where.items() if pattern is not None)
    return errors or [f"{wanted}: none of the {len(entries)} evaluations has all of these."]


def _patterns(pattern: Pattern) -> Sequence[str | int | None]:
    return pattern if isinstance(pattern, list | tuple) else [pattern]


def _override(name: str, pattern: Pattern) -> str:
    text = ",".join(map(str, _patterns(pattern)))
    return f"where.{name}={f'[{text}]' if isinstance(pattern, list | tuple) else text}"


def _is_asked_for(one: Unranked, where: Where) -> bool:
    """False if the configuration of a directory contradicts a filter."""
    config = read_config(one.folder) if any(where.values()) else {}
    sections = {key: config.get(key) for key in ("model", "backbone", "data")}
    return matches(
        where, {key: (section["name"],) for key, section in sections.items() if isinstance(section, dict) and "name" in section}
    )
