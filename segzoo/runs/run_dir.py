"""The run directory, its result file and timestamped names."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from segzoo.io import to_plain_containers, write_json
from segzoo.types import PlainDict


@dataclass
class RunDir:
    """A run directory, locked by this process until it is closed.

    ``finish``, ``fail`` and ``close`` release it. As a context manager it records an error that ends the block.

    Attributes:
        path: the run directory.
        resume_from: the verified checkpoint directory to resume from; None starts at step 0.
        finished: the run was already complete; there is nothing to do.
        message: one line telling whether the run is new, resumed or finished (already printed).
        lock: the lock file, or None if this process does not hold the directory.
    """

    path: Path
    resume_from: Path | None = None
    finished: bool = False
    message: str = ""
    lock: IO | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Record an error if this process holds the directory, and release it."""
        if error is not None and self.lock is not None:
            self.fail(error)
        self.close()

    @property
    def result(self) -> PlainDict:
        """Contents of ``result.json``, empty before the run ends."""
        return read_result(self.path)

    def finish(self, result: PlainDict) -> None:
        """Write ``result.json`` and mark the run as finished."""
        write_json(self.path / "result.json", to_plain_containers(result) | {"finished": True})
        self.close()

    def fail(self, error: BaseException) -> None:
        """Write the error to ``result.json`` as one line.

        The run can be resumed.
        """
        line = " ".join(f"{type(error).__name__}: {error}".split())
        write_json(self.path / "result.json", {"finished": False, "error": line})
        self.close()

    def close(self) -> None:
        """Release the directory for other processes."""
        if self.lock is not None:
            self.lock.close()
            self.lock = None


def make_timestamped_dir(parent: Path) -> Path:
    """Create a directory named by the current time.

    Further directories of the same second get the suffix -2, -3 and so on.
    """
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
    while True:
        path = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def read_result(path: Path) -> PlainDict:
    """Read ``result.json`` of a run directory, empty if missing or unreadable."""
    try:
        result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}
