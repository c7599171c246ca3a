"""Directory and table of a sweep."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from segzoo.registry import ConfigError
from segzoo.runs.run_dir import check_writable, make_timestamped_dir, occupant


def run_sweep(start: Callable[[], None], folder: Path, summarize: Callable[[Path], str]) -> None:
    """Run a sweep and write its table, even if jobs fail.

    Hydra raises the first failure after the last job.
    """
    sys.argv.append(f'hydra.sweep.dir="{folder}"')
    try:
        start()
    finally:
        if folder.is_dir() and any(folder.iterdir()):
            print(f"\n{summarize(folder)}\nwritten to {folder}", flush=True)
        elif folder.is_dir():
            folder.rmdir()  # no job has started


def sweep_dir(overrides: list[str], jobs: Sequence[DictConfig]) -> Path:
    """Return the directory that was typed, or create one for this sweep.

    Raises:
        ConfigError: it is a file, lies in a file or holds a run.
    """
    typed = [
        override.partition("=")[2].strip("'\"") for override in overrides if override.lstrip("+").startswith("hydra.sweep.dir=")
    ]
    if not typed:
        return make_timestamped_dir(Path("runs/sweeps"))
    path = Path(jobs[0].hydra.sweep.dir if jobs else typed[-1]).expanduser()  # the jobs of a search are not known yet
    check_writable(path, "hydra.sweep.dir")
    if occupant(path) == "a run":
        raise ConfigError(
            f"hydra.sweep.dir={path} holds a run, and a sweep has one in each of its own folders. Set another hydra.sweep.dir."
        )
    return path
