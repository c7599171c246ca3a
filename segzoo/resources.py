"""CPU cores, memory and packages that a process may use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from math import ceil
from pathlib import Path

MEMORY = Path("/proc/meminfo")
CONTROL_GROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
THREADS = "OMP_NUM_THREADS"


def cpu_cores(processes: int = 1) -> int:
    """Number of CPU cores that this process may use, at least 1.

    It is limited by the affinity of the process (``taskset``) and by the quota of its container (``docker run --cpus=2``).

    Args:
        processes: number of processes that share the machine and the quota. Each may have an affinity of its own.
    """
    cores = os.cpu_count() or 1
    return max(1, min(_affinity(), min(cores, cpu_quota() or cores) // processes))


def limit_threads() -> None:
    """Let torch start no more threads than the quota pays for.

    By itself it starts one per core of the affinity, and the kernel then stops all of them for most of the time. Must be called before
    torch is imported. ``OMP_NUM_THREADS`` has precedence.
    """
    if (cores := cpu_cores()) < _affinity():
        os.environ.setdefault(THREADS, str(cores))


def cpu_quota() -> int | None:
    """Number of cores that the control group of this process grants.

    A fraction counts as a whole core. None without a quota.
    """
    return min((ceil(quota) for folder in _groups("cpu") for quota in _quota(folder)), default=None)


def available_memory(processes: int = 1) -> int | None:
    """Memory in bytes that this process can use without swapping.

    It is limited by the machine and by its container (``docker run --memory=2g``).

    Args:
        processes: number of processes that share it.

    Returns:
        The memory, None if unknown.
    """
    with suppress(OSError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB", MEMORY.read_text(encoding="utf-8"), re.MULTILINE)
        free = [int(found[1]) * 1024] if found else []
        free += [memory for folder in _groups("memory") for memory in _free_memory(folder)]
        return max(0, min(free)) // processes if free else None
    return None


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the control group and of those around it.

    Both versions of the kernel's interface have them. A container may not see all.
    """
    with suppress(OSError, ValueError):  # no Linux, or a format that is not known
        for line in MEMBERSHIP.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = CONTROL_GROUPS / controllers
            group = root / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _quota(folder: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):  # without a quota, or in a format that is not known
        if (file := folder / "cpu.max").exists():
            quota, period = file.read_text(encoding="utf-8").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip() for name in ("quota", "period"))
        if quota not in ("max", "-1"):
            yield float(quota) / float(period)


def _free_memory(folder: Path) -> Iterator[int]:
    """Yield what the limit of a group leaves, with the file cache."""
    with suppress(OSError, ValueError):  # without a limit, or in a format that is not known
        version_2 = (folder / "memory.max").exists()
        names = ("memory.max", "memory.current") if version_2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        limit, used = ((folder / name).read_text(encoding="utf-8").strip() for name in names)
        stat = (folder / "memory.stat").read_text(encoding="utf-8")
        cache = re.findall(r"^(?:total_)?inactive_file (\d+)$", stat, re.MULTILINE)  # the total stands last
        yield int(limit) - int(used) + int([0, *cache][-1])


def is_installed(package: str) -> bool:
    """True if a package can be imported.

    It is looked up, not imported. A directory without code does not count.
    """
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
