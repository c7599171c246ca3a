"""Search of a folder for runs, evaluations and measured times.

Only small JSON and YAML files are read, never a checkpoint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from segzoo.runs.run_dir import RESULT_FILES
from segzoo.types import PlainDict

NO_RUNS_INSIDE = {"checkpoints", "vis", "labels", "overlays", "plots", "lists", "thumbnails"}
MAX_BYTES = 32 * 2**20  # scores and settings are smaller
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # reads a configuration in a millisecond instead of ten


class Unranked(NamedTuple):
    """A directory that holds no score to rank, and why."""

    folder: Path
    reason: str


@dataclass
class FoundFolders:
    """Directories of a search, by what they hold.

    Attributes:
        runs: run directories, with a checkpoint or without a result.
        evaluations: output directories of tools/eval.py and of other evaluations outside of runs.
        benchmarks: files with measured times.
        jobs: ``result.json`` of jobs of a sweep that have no run directory.
        unreadable: directories that cannot be entered.
    """

    runs: list[Path] = field(default_factory=list)
    evaluations: list[Path] = field(default_factory=list)
    benchmarks: list[Path] = field(default_factory=list)
    jobs: list[Path] = field(default_factory=list)
    unreadable: list[Unranked] = field(default_factory=list)


def find_folders(roots: Iterable[str | Path]) -> FoundFolders:
    """Search directories at any depth.

    Links are followed, and a directory that several paths lead to is entered once. Hidden directories are left out.
    """
    found, seen = FoundFolders(), set[tuple[int, int]]()
    pending = [Path(root) for root in roots][::-1]
    while pending:
        folder = pending.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            found.unreadable.append(Unranked(folder, f"cannot be read: {error.strerror}"))
            continue
        skipped = NO_RUNS_INSIDE | _classify(folder, {entry.name for entry in entries}, found)
        inside = [entry.name for entry in entries if entry.name not in skipped and entry.name[0] != "." and _leads_on(entry)]
        pending += [folder / name for name in reversed(inside)]
    return found


def _classify(folder: Path, names: set[str], found: FoundFolders) -> set[str]:
    """Sort a directory into what was found.

    Returns:
        The names of its directories that belong to it.
    """
    if "bench.json" in names:
        found.benchmarks.append(folder / "bench.json")
    if "checkpoints" in names:
        found.runs.append(folder)
        return {"eval"}
    if "summary.json" in names:
        found.evaluations.append(folder)
    elif "config.yaml" in names and not names & set(RESULT_FILES.values()):
        found.runs.append(folder)  # it failed, was killed or is running
        return {"eval"}
    elif "result.json" in names:
        found.jobs.append(folder / "result.json")
    return set()


def _leads_on(entry: os.DirEntry[str]) -> bool:
    """True for a directory, and for a link that leads nowhere."""
    with suppress(OSError):
        return entry.is_dir() or (entry.is_symlink() and not os.path.exists(entry.path))
    return True  # entering it will tell why


def read_json(path: Path) -> object:
    """Read a small JSON file.

    Raises:
        ValueError: it is missing, unreadable, too large or not valid.
    """
    try:
        if not path.is_file():
            raise ValueError(f"{path.name} is missing")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{path.name} has {size} bytes, expected at most {MAX_BYTES}")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is not valid JSON: {error}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name} is not valid JSON: {type(error).__name__}") from None


def read_config(folder: Path) -> PlainDict:
    """Read the ``config.yaml`` of a directory, empty if it cannot be read."""
    path = folder / "config.yaml"
    with suppress(OSError, ValueError, RecursionError, yaml.YAMLError):
        if path.is_file() and path.stat().st_size <= MAX_BYTES:
            content = yaml.load(path.read_text(encoding="utf-8"), LOADER)  # a safe loader
            return content if isinstance(content, dict) else {}
    return {}


def escape_unprintable(text: object) -> str:
    """Escape what a terminal would obey or cannot show."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def printable_values(value: Any) -> Any:
    """Escape every text in plain containers, see ``escape_unprintable``."""
    if isinstance(value, dict):
        return {escape_unprintable(key): printable_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [printable_values(item) for item in value]
    return escape_unprintable(value) if isinstance(value, str) else value
