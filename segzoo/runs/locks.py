"""File locks: one writer per run directory, and GPUs shared between jobs."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated

from segzoo.registry import Range


def lock_directory(path: Path) -> IO | None:
    """Lock a run directory for this process.

    The lock is released when the returned file is closed or the process ends, however it ends. It is a record lock rather than
    ``flock``, because data workers must not inherit it: a killed run would stay locked until they exit.

    Returns:
        The lock file, or None if another process holds the lock.
    """
    file = open(path / "run.lock", "w")  # noqa: SIM115 (held as long as the run)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    return file


_claimed: dict[Path, tuple[int, IO]] = {}  # lock directory -> GPU and lock of this process, for all its jobs


def claim_gpu(
    num_gpus: int,
    lock_dir: Path | None = None,
    wait: Callable[[], None] = lambda: time.sleep(5),
    *,
    jobs_per_gpu: Annotated[int, Range(1)] = 1,
) -> int:
    """Claim a GPU with a free slot, waiting until there is one.

    A process keeps its GPU until it ends.

    Args:
        num_gpus: GPUs that this process may use, at least 1.
        lock_dir: directory of the lock files; None means one directory per user and machine, so that concurrent sweeps do not share
            a GPU either.
        wait: called while all GPUs are in use.
        jobs_per_gpu: number of jobs that may share a GPU.

    Returns:
        The index of the GPU.
    """
    directory = lock_dir or Path(tempfile.gettempdir()) / f"segzoo-gpus-{os.getuid()}"
    directory.mkdir(parents=True, exist_ok=True)
    while directory not in _claimed:
        for slot in range(num_gpus * jobs_per_gpu):
            file = open(directory / f"{slot % num_gpus}-{slot // num_gpus}.lock", "w")  # noqa: SIM115 (held until the process ends)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                continue
            _claimed[directory] = slot % num_gpus, file
            break
        else:
            wait()
    return _claimed[directory][0]
