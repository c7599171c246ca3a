"""Errors of the machine: full disks, missing permissions, killed processes."""

from __future__ import annotations

import errno
import os
import re

DISK_ADVICE = {  # other errors are bugs of the program
    errno.ENOSPC: "Free space there, or set another folder.",
    errno.EDQUOT: "Free some of your quota, or set another folder.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f).",
    errno.EMFILE: "Raise the limit on open files (ulimit -n).",
    errno.ENFILE: "Close other programs: the machine has too many open files.",
    errno.EROFS: "Set a folder that can be written to.",
    errno.EACCES: "Change its permissions, or set another folder.",
    errno.EPERM: "Change its permissions, or set another folder.",
    errno.EISDIR: "Remove or rename the folder of this name.",
    errno.ENOTDIR: "Remove or rename the file that stands for a folder.",
    errno.EIO: "Check the disk and its connection.",
    errno.ESTALE: "Check the network drive.",
}
WORKER_ADVICE = {  # pattern in a message of PyTorch -> what has happened and what to do
    r"DataLoader worker .*(killed by signal|exited unexpectedly)": (
        "a process that loads images was killed, which the system does when memory is full. Set fewer workers, or a smaller batch or crop."
    ),
    r"shared memory\(shm\)|/dev/shm|Unexpected bus error": (
        "the shared memory /dev/shm is full. Set workers=0, or start a container with more of it, such as docker run --shm-size=4g."
    ),
    "Too many open files": "too many open files. Raise the limit (ulimit -n 4096), or set workers=0.",
}
AGAIN = "Then give the same command again, a training with resume=auto."


def system_error_text(error: OSError | RuntimeError) -> str | None:
    """Describe an error of the machine in one line.

    Returns:
        What has happened, where, and what to do; None for any other error.
    """
    message = " ".join(str(error).split())
    if advice := next((text for pattern, text in WORKER_ADVICE.items() if re.search(pattern, message)), None):
        return f"{advice} {AGAIN}"
    if not isinstance(error, OSError) or error.errno not in DISK_ADVICE:
        return None
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else "a file"
    return f"{path}: {(error.strerror or message).lower()}. {DISK_ADVICE[error.errno]} {AGAIN}"
