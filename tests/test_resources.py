"""CPU cores that a process may use: affinity, quota of its container, other ranks."""

from __future__ import annotations

import os

import pytest

from segzoo import resources
from segzoo.resources import available_memory, cpu_cores, cpu_quota, limit_threads


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """A machine with 64 cores, and a function that puts this process into control groups with the given files."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(resources, "CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "MEMBERSHIP", tmp_path / "membership")

    def place(membership, files):
        (tmp_path / "membership").write_text(membership, encoding="utf-8")
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    return place


VERSION_1 = {"cpu,cpuacct/docker/a/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(("membership", "files", "cores"), [
    ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),  # docker run --cpus=2
    ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    ("0::/\n", {}, None),  # outside of a container
    ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),  # the quota of the group around it
    ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 1),  # half a core
    ("0::/docker/a\n", {"cpu.max": "400000 100000\n"}, 4),  # a container that sees only its own group
    ("5:memory:/\n4:cpu,cpuacct:/docker/a\n0::/\n", VERSION_1, 2),
    ("4:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None),
    ("0::/\n", {"cpu.max": "an interface of the future\n"}, None),
])  # fmt: skip
def test_the_quota_of_a_container_limits_its_cores(kernel, membership, files, cores):
    kernel(membership, files)
    assert cpu_quota() == cores
    assert cpu_cores() == (cores or 64)


def test_without_control_groups_the_affinity_counts(kernel, monkeypatch):
    assert cpu_cores() == 64
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert cpu_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS and Windows
    assert cpu_cores() == 64


@pytest.mark.parametrize(("processes", "quota", "affinity", "cores"), [
    (4, None, 64, 16),
    (4, None, 8, 8),  # launchers that bind processes give each its own cores
    (4, "800000 100000", 64, 2),  # the processes share the quota
    (4, "200000 100000", 64, 1),
    (100, None, 64, 1),
])  # fmt: skip
def test_processes_share_the_cores(kernel, monkeypatch, processes, quota, affinity, cores):
    kernel("0::/\n", {} if quota is None else {"cpu.max": quota})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    assert cpu_cores(processes) == cores


def test_torch_starts_no_more_threads_than_the_quota_pays_for(kernel, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    kernel("0::/\n", {"cpu.max": "max 100000"})
    limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    kernel("0::/\n", {"cpu.max": "300000 100000"})
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    kernel("0::/\n", {"cpu.max": "200000 100000"})
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "3"  # what is set has precedence


def test_available_memory_is_known_on_linux():
    available = available_memory()
    assert available is not None and 10**8 < available < 10**14


VERSION_1_MEMORY = {"limit_in_bytes": "3000", "usage_in_bytes": "2500", "stat": "inactive_file 1\ntotal_inactive_file 100\n"}


@pytest.mark.parametrize(("membership", "files", "processes", "available"), [
    ("0::/\n", {}, 1, 8000 * 1024),
    ("0::/\n", {}, 4, 2000 * 1024),
    ("0::/\n", {"memory.max": "max", "memory.current": "9", "memory.stat": "inactive_file 0"}, 1, 8000 * 1024),
    ("0::/\n", {"memory.max": "5000", "memory.current": "4000", "memory.stat": "anon 1\ninactive_file 300\n"}, 1, 1300),
    ("0::/a\n", {"memory.max": "5000", "memory.current": "6000", "memory.stat": "inactive_file 300\n"}, 2, 0),
    ("9:memory:/a\n", {f"memory/a/memory.{name}": text for name, text in VERSION_1_MEMORY.items()}, 1, 600),
])  # fmt: skip
def test_the_limit_of_a_container_counts(kernel, monkeypatch, tmp_path, membership, files, processes, available):
    kernel(membership, files)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    monkeypatch.setattr(resources, "MEMORY", tmp_path / "meminfo")
    assert available_memory(processes) == available
