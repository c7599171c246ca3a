"""The loggers of a run, none of which can stop it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from segzoo.io import write_json
from segzoo.loggers._base import LoggedRun, RunLogger, Status
from segzoo.types import PlainMapping

IDS = "loggers.json"  # in the run directory: name of a logger -> its id of the run
RESULTS = ("config.yaml", "result.json", "report.*", "eval/summary.json", "eval/*.csv", "vis/*.png")


class LoggerGroup:
    """Open loggers of a run, for use in a ``with`` block.

    A logger that fails is switched off with a warning, and the run continues.

    Args:
        run: the run; None without loggers.
        builders: opens each logger, by its name.
    """

    def __init__(self, run: LoggedRun | None = None, builders: Mapping[str, Callable[[LoggedRun], RunLogger]] | None = None):
        self.run, self.loggers = run, dict[str, RunLogger]()
        if run is None:
            return
        ids = _read_ids(run.path) if run.resumed else {}
        for name, build in (builders or {}).items():
            with self._guard(name):
                logger = self.loggers[name] = build(replace(run, id=ids.pop(name, None)))
                if logger.hint:
                    print(f"{name}: {logger.hint}", flush=True)
        if ids or any(logger.id for logger in self.loggers.values()):
            write_json(run.path / IDS, ids | {name: logger.id for name, logger in self.loggers.items() if logger.id})

    def __enter__(self) -> LoggerGroup:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        status: Status = "finished" if error is None else "failed" if isinstance(error, Exception) else "killed"
        self._each(lambda logger: logger.close(status))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of a step, named like ``train/loss``."""
        self._each(lambda logger: logger.log(values, step))

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """Log an image (H, W, 3) uint8."""
        self._each(lambda logger: logger.image(tag, image, step))

    def results(self, result: PlainMapping) -> None:
        """Log the contents of ``result.json`` and files of the run directory."""
        if self.run is None or not self.loggers:
            return
        root = self.run.path
        files = sorted(path.relative_to(root).as_posix() for pattern in RESULTS for path in root.glob(pattern))
        scores = {key: float(value) for key, value in result.items() if type(value) in (int, float)}
        self._each(lambda logger: logger.results(scores, files))

    def _each(self, action: Callable[[RunLogger], None]) -> None:
        for name, logger in list(self.loggers.items()):
            with self._guard(name):
                action(logger)

    @contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        """Switch a logger off if it raises an error."""
        from tqdm import tqdm

        try:
            yield
        except Exception as error:  # of any kind, since other libraries and servers raise them
            line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            tqdm.write(f"warning: logger {name} is off from here on, it failed with {line}", file=sys.stderr)  # above progress bars
            failed = self.loggers.pop(name, None)
            if failed is not None:
                with suppress(Exception):
                    failed.close("failed")


NO_LOGGERS = LoggerGroup()


def _read_ids(path: Path) -> dict[str, str]:
    """Read the ids that an interrupted process has stored, if it has."""
    try:
        ids = json.loads((path / IDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return ids if isinstance(ids, dict) else {}
