"""The run directory and the small files that say what ran and how it ended."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from segzoo.io import to_plain_containers, write_json


@dataclass
class RunDir:
    """One run directory, held by this process until ``finish``, ``fail`` or ``close``.

    Attributes:
        folder: the run directory.
        resume_from: the checked checkpoint directory to go on from; None starts at step 0.
        finished: the run was complete before; there is nothing to do.
        message: which of new, resumed or finished it is, in one line (printed already).
    """

    path: Path
    resume_from: Path | None = None
    finished: bool = False
    message: str = ""
    lock: IO | None = field(default=None, repr=False)

    @property
    def result(self) -> dict[str, Any]:
        """What ``result.json`` holds; empty before the end."""
        return read_result(self.path)

    def finish(self, result: dict[str, Any]) -> None:
        """Marks the run finished and writes its ``result.json``."""
        write_json(self.path / "result.json", to_plain_containers(result) | {"finished": True})
        self.close()

    def fail(self, error: BaseException) -> None:
        """Writes ``result.json`` with the error in one line; the run can be resumed."""
        line = " ".join(f"{type(error).__name__}: {error}".split())
        write_json(self.path / "result.json", {"finished": False, "error": line})
        self.close()

    def close(self) -> None:
        """Lets other processes use the folder."""
        if self.lock is not None:
            self.lock.close()
            self.lock = None


def make_timestamped_dir(parent: Path) -> Path:
    """A new folder named by the time; those made in the same second get -2, -3 and so on."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
    while True:
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def read_result(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
