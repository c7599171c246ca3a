"""File locks: one writer per run directory, and GPUs shared between jobs.

They are record locks (``fcntl.lockf``), which a process does not pass on to the data workers that it forks. With ``flock``, as the package
filelock uses it, the run directory and the GPU of a killed training would stay locked until its last worker exits.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Annotated

from segzoo.registry import ConfigError, Range

RUN_LOCK = "run.lock"  # in every directory to which segzoo writes results


def lock_directory(path: Path) -> IO | None:
    """Lock a run directory for this process.

    The lock is released when the returned file is closed or the process ends, however it ends.

    Returns:
        The lock file, or None if another process holds the lock.

    Raises:
        ConfigError: ``run.lock`` is a link.
    """
    return _try_lock(path / RUN_LOCK)


def _try_lock(path: Path) -> IO | None:
    """Open and lock a file.

    Links are not followed, and the content is left unchanged.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ConfigError(f"{path} is a link, expected a lock file of its own; remove the link: rm '{path}'") from None
    file = os.fdopen(descriptor, "w")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    return file


def _own_directory(path: Path) -> Path:
    """Create or check a directory that only this user may write to.

    Raises:
        ConfigError: ``path`` is a link, or others may write to it, and could make this process open other files.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"{path} holds the locks of this user's GPUs, but is a link, belongs to someone else or is writable for others. Remove it, or "
            "set TMPDIR to a directory of your own"
        )
    return path


_claimed: dict[Path, tuple[int, IO]] = {}  # lock directory -> GPU and lock of this process, for all its jobs


def claim_gpu(
    gpus: Sequence[str],
    lock_dir: Path | None = None,
    wait: Callable[[], None] = lambda: time.sleep(5),
    *,
    jobs_per_gpu: Annotated[int, Range(1, 128)] = 1,
) -> int:
    """Claim a GPU with a free slot, waiting until there is one.

    A process keeps its GPU until it ends.

    Args:
        gpus: a name for each GPU that this process may use, at least one. Its index would not do, since CUDA_VISIBLE_DEVICES counts
            other GPUs in other processes.
        lock_dir: directory of the lock files; None means one directory per user and machine, so that concurrent sweeps do not share
            a GPU either.
        wait: called while all GPUs are in use, which is printed once.
        jobs_per_gpu: number of jobs that may share a GPU.

    Returns:
        The index of the GPU.

    Raises:
        ConfigError: another user could write to the directory of the lock files.
    """
    directory, waiting = _own_directory(lock_dir or Path(tempfile.gettempdir()) / f"segzoo-gpus-{os.getuid()}"), False
    while directory not in _claimed:
        for job, (index, name) in itertools.product(range(jobs_per_gpu), enumerate(gpus)):
            file = _try_lock(directory / f"{name}-{job}.lock")
            if file is not None:
                _claimed[directory] = index, file
                break
        else:
            if not waiting:
                print(f"waiting for a GPU: other jobs use all {len(gpus)} that this one may use (locks in {directory})", flush=True)
            waiting = True
            wait()
    return _claimed[directory][0]
