"""Result files: each measurement with its command, commit, machine and versions.

Every published number comes from one of them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from segzoo.io import write_json
from segzoo.runs.environment import git_commit, machine, versions

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def write_result(name: str, command: str, rows: Any, *, packages: Sequence[str] = ()) -> Path:
    """Write ``results/<name>.json`` with everything needed to judge or repeat it.

    Args:
        name: Stem of the file, with its folder if it is in one.
        command: The command as it was typed, ``args.command`` of every benchmark.
        rows: Content that JSON can hold.
        packages: Further packages whose versions are recorded if they are installed, such as peer libraries.

    Returns:
        The path of the file.
    """
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"command": command, "git": git_commit(), "machine": machine(), "versions": versions() | _installed(packages)}
    write_json(path, content | {"rows": rows})
    if content["git"]["changed"]:
        print(
            f"note: {path.name} cannot be published: the checkout has uncommitted changes. Commit them and measure again.",
            flush=True,
        )
    return path


def without_path(command: str, path: Path) -> str:
    """Replace the path of an output directory in a command by ``<out>``."""
    return shlex.join("<out>" if Path(word) == path else word for word in shlex.split(command)).replace("'<out>'", "<out>")


def read_result(name: str) -> dict[str, Any]:
    """Return the content of ``results/<name>.json``."""
    return read_json(RESULTS / f"{name}.json")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _installed(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
