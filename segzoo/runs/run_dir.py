"""Run directories: creating and locking them, and what they hold."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import yaml

from segzoo.checkpoints.store import foreign_file, list_checkpoints, step_dir
from segzoo.io import to_plain_containers, write_atomically, write_json, write_text
from segzoo.registry import ConfigError
from segzoo.runs.locks import RUN_LOCK, lock_directory
from segzoo.runs.replaced_results import holds_replaced_results
from segzoo.types import PlainDict

METADATA_FILES = {"config.yaml", "env.json", RUN_LOCK}  # written before any result
RESULT_FILES = {  # tool -> the file that it writes last, which marks its directory as finished
    "eval": "summary.json",
    "predict": "predict.json",
    "export": "export.json",
    "bench": "bench.json",
    "dataset": "dataset.json",
    "compare": "compare.json",
    "leaderboard": "leaderboard.json",
}


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
        replaced: contents of the files of a finished run that this process continues.
    """

    path: Path
    resume_from: Path | None = None
    finished: bool = False
    message: str = ""
    lock: IO | None = field(default=None, repr=False)
    replaced: dict[str, bytes] = field(default_factory=dict, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Record an error if this process holds the directory, and release it."""
        if error is not None and self.lock is not None:
            with suppress(OSError):  # the disk may be full
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

        The run can be resumed. A finished run that was to be continued stays finished if no checkpoint was added.
        """
        line = " ".join(f"{type(error).__name__}: {error}".split())
        if self.replaced and self.resume_from == step_dir(self.path, max(list_checkpoints(self.path), default=0)):
            for name, content in self.replaced.items():
                write_atomically(self.path / name, lambda file, content=content: file.write(content))
        else:
            write_json(self.path / "result.json", {"finished": False, "error": line})
        self.close()

    def keep_finished(self) -> None:
        """Remember the settings and the result of a finished run."""
        if self.result.get("finished") is True:
            names = [*METADATA_FILES - {RUN_LOCK}, "result.json"]
            self.replaced = {name: (self.path / name).read_bytes() for name in names if (self.path / name).is_file()}

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


def occupant(path: Path) -> str | None:
    """Name what a directory holds that no other run may replace.

    A directory without a checkpoint and without a result holds nothing, whatever a failed or killed process left in it.
    """
    if list_checkpoints(path) or read_result(path).get("finished") is True:
        return "a run"
    if other := foreign_file(path):
        return f"checkpoints of another program ({other.relative_to(path)})"
    if (path / "config.yaml").is_file() and not (path / RUN_LOCK).exists():  # which a run creates first
        return "the config.yaml of another program"
    found = (tool for tool, name in RESULT_FILES.items() if (path / name).is_file() or holds_replaced_results(path, tool))
    return next((f"results of tools/{tool}.py ({RESULT_FILES[tool]})" for tool in found), None)


def check_run_dir(path: Path) -> None:
    """Raise ConfigError if a directory is occupied or cannot be created."""
    if other := occupant(path):
        hint = "Resume it with resume=auto, or set another out." if other == "a run" else "Set another out."
        raise ConfigError(f"out={path} already holds {other}. {hint}")
    check_writable(path)


def check_writable(path: Path, setting: str = "out") -> None:
    """Raise ConfigError if a directory cannot be created or written to.

    Args:
        path: the directory.
        setting: the setting that has it, for messages.
    """
    normal = Path(os.path.abspath(path))
    for folder in (normal, *normal.parents):
        if folder.name == "checkpoints" and list_checkpoints(folder.parent, complete=False):
            raise ConfigError(f"{setting}={path} is within the checkpoints of the run {folder.parent}. Set another {setting}.")
    existing = next(parent for parent in (path, *path.absolute().parents) if os.path.lexists(parent))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        reason = "is not writable" if existing.is_dir() else "is not a directory"
        raise ConfigError(f"{setting}={path} cannot be created: {existing} {reason}. Set {setting} to a writable directory.")


def create_and_lock(path: Path) -> IO:
    """Create a directory, unless it exists, and lock it for this process.

    Raises:
        ConfigError: it cannot be created, or another process holds it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = lock_directory(path)
    except OSError as error:
        raise ConfigError(f"out={path} cannot be created: {error.strerror}. Set out to a writable directory.") from None
    if lock is None:
        raise ConfigError(f"{path} is in use by another process; wait for it to end or set another out")
    return lock


def write_metadata(path: Path, config: PlainDict, **more: str | dict[str, str] | None) -> None:
    """Write ``config.yaml``, and ``env.json`` with further entries.

    ``env.json`` keeps the command line as it was typed.
    """
    from segzoo.runs.environment import describe_environment

    write_text(path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    write_json(path / "env.json", describe_environment(gpu=config.get("device") != "cpu") | more)
