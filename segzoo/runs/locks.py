"""One writer a run directory."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated

from segzoo.registry import Range


def lock_folder(folder: Path) -> IO | None:
    """Takes a folder for this process until the handle is closed or the process ends, however it ends; None if another has it.

    A record lock and not ``flock``: data workers must not inherit it, or a killed run would stay locked until they notice.
    """
    import fcntl

    handle = open(folder / "run.lock", "w")  # noqa: SIM115 (held as long as the run)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        handle.close()
        return None
    return handle


_claimed: dict[Path, tuple[int, IO]] = {}  # folder of locks -> GPU and lock of this process, for all its jobs


def claim_gpu(
    count: int,
    folder: Path | None = None,
    wait: Callable[[], None] = lambda: time.sleep(5),
    *,
    jobs_per_gpu: Annotated[int, Range(1)] = 1,
) -> int:
    """The number of a GPU that has room for a job; waits until there is one. A process keeps its GPU to its end.

    Args:
        count: GPUs of this machine that this process may use, at least 1.
        folder: where the locks lie; None: one folder a user and machine, so that two sweeps do not meet on a GPU either.
        wait: called while all GPUs are taken.
        jobs_per_gpu: jobs that may share one.
    """
    place = folder or Path(tempfile.gettempdir()) / f"segzoo-gpus-{os.getuid()}"
    place.mkdir(parents=True, exist_ok=True)
    while place not in _claimed:
        for slot in range(count * jobs_per_gpu):
            handle = open(place / f"{slot % count}-{slot // count}.lock", "w")  # noqa: SIM115 (held to the end of the process)
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                handle.close()
                continue
            _claimed[place] = slot % count, handle
            break
        else:
            wait()
    return _claimed[place][0]
