"""Errors of the machine: full disks and memory, missing permissions, killed processes."""

from __future__ import annotations

import errno
import os
import re

DISK_ADVICE = {
    errno.ENOSPC: "Free space there, or set another folder.",
    errno.EDQUOT: "Free some of your quota, or set another folder.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f).",
    errno.EMFILE: "Raise the limit on open files (ulimit -n).",
    errno.ENFILE: "Close other programs: the machine has too many open files.",
    errno.ENOMEM: "Free memory, or set fewer workers.",
    errno.EROFS: "Set a folder that can be written to.",
    errno.EACCES: "Change its permissions, or set another folder.",
    errno.EPERM: "Change its permissions, or set another folder.",
    errno.EISDIR: "Remove or rename the folder of this name.",
    errno.ENOTDIR: "Remove or rename the file that stands for a folder.",
    errno.ENAMETOOLONG: "Set a shorter one.",
    errno.EIO: "Check the disk and its connection.",
    errno.ESTALE: "Check the network drive.",
}
NEED_A_FILE = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)  # without one they are bugs
WORKER_ADVICE = {  # pattern in a message of PyTorch -> what to do; the first that fits counts
    r"Bus error|unable to \w+ .*shared memory|out of shared memory": (
        "The shared memory /dev/shm is full: set workers=0, or start the container with more of it, such as docker run --shm-size=4g."
    ),
    r"DataLoader worker .*killed by signal: Killed": (
        "The system has probably killed it because memory was full: set fewer workers, or a smaller batch or crop."
    ),
    r"DataLoader worker .*(killed by signal|exited unexpectedly)": "Set workers=0 to see why, or fewer workers.",
    "Too many open files": "Raise the limit (ulimit -n 4096), or set workers=0.",
}
OUT_OF_MEMORY = (  # of torch and the libraries below it
    r"out of memory|can't allocate memory|not enough memory|STATUS_ALLOC_FAILED|(DEVICE|HOST)_ALLOCATION_FAILED|Failed to CUDA calloc"
)
MEMORY_ADVICE = {  # tool -> settings that need less memory
    "train": "Set precision=bf16, or a smaller batch_size or augment.crop.",
    "prune": "Set precision=bf16, or a smaller batch_size or augment.crop.",
    "eval": "Set precision=bf16, or protocol=slide, with a smaller protocol.crop if necessary.",
    "compare": "Set precision=bf16, or protocol=slide, with a smaller protocol.crop if necessary.",
    "predict": "Set batch=1, precision=bf16, or protocol=slide, with a smaller protocol.crop if necessary.",
    "serve": "Set max_batch=1, precision=bf16, or protocol=slide, with a smaller protocol.crop if necessary.",
    "bench": "Set batch=1, precision=bf16 or a smaller hw.",
}
AGAIN = "Then give the same command again; a training continues with resume=auto."


def is_out_of_memory(error: BaseException) -> bool:
    """True for an error of the CPU's or the GPU's memory.

    The libraries below torch raise no class of their own for it.
    """
    return isinstance(error, MemoryError) or isinstance(error, RuntimeError) and re.search(OUT_OF_MEMORY, str(error)) is not None


def system_error_text(error: Exception, tool: str | None = None) -> str | None:
    """Describe an error of the machine in one line.

    Args:
        error: the error.
        tool: the tool that it has ended, for advice on memory.

    Returns:
        What has happened, where, and what to do; None for any other error.
    """
    if not isinstance(error, OSError | RuntimeError):
        return None
    message = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        first = ". ".join(str(error).splitlines()[0].split(". ")[:2])  # torch describes all of its memory
        return f"{first[:200].rstrip('.')}. {MEMORY_ADVICE.get(tool or '', 'End other programs that use it.')} {AGAIN}"
    if not getattr(error, "errno", None):  # of PyTorch
        advice = next((text for pattern, text in WORKER_ADVICE.items() if re.search(pattern, message)), None)
        return advice and f"{message[-200:].rstrip('.')}. {advice} {AGAIN}"
    if not isinstance(error, OSError) or error.errno not in DISK_ADVICE or (error.errno in NEED_A_FILE and not error.filename):
        return None
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else "a file"
    return f"{path}: {(error.strerror or message).lower()}. {DISK_ADVICE[error.errno]} {AGAIN}"
