"""CPU cores that a process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path

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
    return min(map(ceil, _quotas()), default=None)


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """Yield the quotas of the control group and of those around it.

    Reads both versions of the kernel's interface: ``cpu.max``, and ``cpu.cfs_quota_us`` with ``cpu.cfs_period_us``.
    """
    with suppress(OSError, ValueError):  # no Linux, or an interface that is not known
        for line in MEMBERSHIP.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = CONTROL_GROUPS / controllers
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    with suppress(OSError):  # the root group has no quota, and a container does not see the groups around it
        if (file := folder / "cpu.max").exists():
            quota, period = file.read_text(encoding="utf-8").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip() for name in ("quota", "period"))
        if quota not in ("max", "-1"):
            yield float(quota) / float(period)
