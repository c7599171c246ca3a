"""Result files: what was measured, by which command, on which commit, machine and versions. Every published figure comes from one."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from segzoo.engine.env import git_commit, machine, versions
from segzoo.report import write_json

RESULTS = Path(__file__).parents[1] / "results"


def write_result(name: str, command: str, rows: Any, *, packages: Sequence[str] = ()) -> Path:
    """Writes ``results/<name>.json``: the rows, and everything one needs to judge or repeat them.

    Args:
        name: the file's stem.
        command: the words that make the result again.
        rows: plain JSON-able content.
        packages: beside segzoo's own, such as the peers, whose versions are told too where they are installed.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"command": command, "git": git_commit(), "machine": machine(), "versions": versions() | _installed(packages)}
    write_json(path, content | {"rows": rows})
    return path


def _installed(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def read_result(name: str) -> dict[str, Any]:
    """The content of ``results/<name>.json``."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The ratio of paired times, ours to theirs, with its 95 % interval (t distribution on the logarithms).

    Args:
        ours, theirs: seconds, taken in turns; at least three of each.
    """
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    students_t = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
    half = students_t.get(len(logs), 2.0 if len(logs) < 60 else 1.96) * statistics.stdev(logs) / math.sqrt(len(logs))
    middle = statistics.fmean(logs)
    return {"ratio": math.exp(middle), "low": math.exp(middle - half), "high": math.exp(middle + half)}
