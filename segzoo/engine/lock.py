"""One writer a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import IO


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
