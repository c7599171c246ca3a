"""Measured times of tools/bench.py.

They are matched to scores by the checksum of the model file. Times of different machines, image sizes, batch sizes or scopes are not comparable, so all times of a table share these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from segzoo.messages import format_override
from segzoo.types import PlainDict
from segzoo.workflows.leaderboard.entries import Entry, integer
from segzoo.workflows.leaderboard.filters import Pattern, matches
from segzoo.workflows.leaderboard.scan import Unranked, read_json

KEYS = ("runtime", "precision", "device", "size", "batch", "scope")


class Setup(NamedTuple):
    """Conditions that all times of a table share."""

    machine: str
    size: str  # HxW
    batch: int
    scope: str

    def __str__(self) -> str:
        images = "one image" if self.batch == 1 else f"an image in batches of {self.batch}"
        return f"{images} of {self.size}, {self.scope}, {self.machine}"


@dataclass(frozen=True)
class Timing:
    """A measured time, as a row of ``bench.json`` has it.

    Attributes:
        checkpoint: SHA-256 of the measured model file.
        ms, ms_p90: median and 90th percentile of the milliseconds per image.
        parameters, gmacs: size of the network, None if unknown.
        measured: when, as text that sorts by time, empty if unknown.
        file: the file that holds it.
    """

    checkpoint: str
    runtime: str
    precision: str
    device: str
    setup: Setup
    ms: float
    ms_p90: float
    parameters: int | None
    gmacs: float | None
    measured: str
    file: Path

    def to_dict(self) -> PlainDict:
        """Plain values, those of the setup among them."""
        values = asdict(self) | {"file": str(self.file)}
        return {key: value for key, value in values.items() if key not in ("setup", "checkpoint")} | self.setup._asdict()


def read_timings(files: Iterable[Path]) -> tuple[list[Timing], list[Unranked]]:
    """Read measured times.

    Rows of a runtime that failed and of random weights have nothing to match.

    Args:
        files: ``bench.json``, and ``result.json`` of the jobs of any sweep.
    """
    timings, broken = list[Timing](), list[Unranked]()
    for file in files:
        try:
            content = read_json(file)
            rows = [content["row"]] if isinstance(content, dict) and "row" in content else content
            if file.name == "result.json" and rows is content:
                continue  # of a job that measured nothing
            if not isinstance(rows, list):
                raise ValueError(f"{file.name} holds no list of rows")
            timings += [
                _timing(row, file) for row in rows if "ms_per_image" in row and not str(row["weights"]).startswith("random")
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            broken.append(Unranked(file.parent, f"broken measurement: {type(error).__name__}: {error}"))
    return timings, broken


def _timing(row: PlainDict, file: Path) -> Timing:
    height, width = row["hw"]
    machine, threads = row["machine"], row.get("threads")
    named = machine.get("gpu") if row["device"] == "cuda" else f"{machine['cpu']}, {threads} thread{'s' * (threads != 1)}"
    setup = Setup(str(named), f"{int(height)}x{int(width)}", int(row["batch"]), str(row["scope"]))
    ms, ms_p90 = (float(row["ms_per_image"][key]) for key in ("p50", "p90"))
    if not 0 < ms < float("inf"):
        raise ValueError(f"{ms} ms per image")
    gmacs = None if row.get("gmacs") is None else float(row["gmacs"])
    return Timing(
        checkpoint=str(row["weights"]),
        runtime=str(row["runtime"]),
        precision=str(row["precision"]),
        device=str(row["device"]),
        setup=setup,
        ms=ms,
        ms_p90=ms_p90,
        parameters=integer(row.get("params")),
        gmacs=gmacs,
        measured=_measured(file),
        file=file,
    )


def _measured(file: Path) -> str:
    with suppress(ValueError):
        environment = read_json(file.with_name("env.json"))
        return str(environment.get("time") or "") if isinstance(environment, dict) else ""
    return ""


class ChosenTimes(NamedTuple):
    """Times of the rows of a table.

    Attributes:
        setup: what they share, None if no row has a time.
        fastest: for each row its time, or None.
        notes: times that were left out.
    """

    setup: Setup | None
    fastest: list[Timing | None]
    notes: list[str]


def choose_times(entries: Sequence[Entry], timings: Mapping[str, Sequence[Timing]], wanted: Mapping[str, Pattern]) -> ChosenTimes:
    """Choose one comparable time for each row of a table.

    The setup is the one in which most rows were measured. A row gets the time of its fastest runtime there. It has to be measured in the
    precision of the score, unless another one is wanted.

    Args:
        entries: the rows.
        timings: times by checksum.
        wanted: the filter, by the names in ``KEYS``.
    """
    candidates = [[time for time in timings.get(entry.checkpoint or "", ()) if _is_wanted(time, wanted)] for entry in entries]
    foreign, names = 0, list[str]()
    if wanted.get("precision") is None:
        valid = [
            [time for time in times if time.precision == entry.summary["protocol"].get("precision")]
            for entry, times in zip(entries, candidates, strict=True)
        ]
        dropped = [times for times, kept in zip(candidates, valid, strict=True) if times and not kept]
        foreign, names = len(dropped), sorted({time.precision for times in dropped for time in times})
        candidates = valid
    coverage = Counter(setup for times in candidates for setup in {time.setup for time in times})
    notes = []
    if foreign:
        override = format_override("times.precision", names if len(names) > 1 else names[0])
        notes.append(
            f"Timed only in another precision than scored: {foreign} of {len(entries)} runs. Set {override} to use these times."
        )
    if not coverage:
        return ChosenTimes(None, [None] * len(entries), notes)
    setup = max(coverage, key=lambda one: (coverage[one], one))
    others = [f"{one} ({count})" for one, count in coverage.most_common() if one != setup]
    if others:
        example = next(one for one in coverage if one != setup)
        differing = {"size": example.size, "batch": example.batch, "scope": example.scope}
        words = " ".join(format_override(f"times.{key}", value) for key, value in differing.items() if value != getattr(setup, key))
        notes.append(f"Times of other setups are left out: {'; '.join(others)}.{f' Set {words} for these.' if words else ''}")
    return ChosenTimes(setup, [_fastest([time for time in times if time.setup == setup]) for times in candidates], notes)


def _is_wanted(time: Timing, wanted: Mapping[str, Pattern]) -> bool:
    values = {"runtime": time.runtime, "precision": time.precision, "device": time.device} | time.setup._asdict()
    return matches(wanted, {key: (values[key],) for key in KEYS})


def _fastest(times: Sequence[Timing]) -> Timing | None:
    """The fastest runtime, by the latest measurement of each."""
    latest: dict[tuple[str, str], Timing] = {}
    for time in sorted(times, key=lambda time: (time.measured, str(time.file))):
        latest[time.runtime, time.precision] = time
    return min(latest.values(), key=lambda time: time.ms, default=None)
