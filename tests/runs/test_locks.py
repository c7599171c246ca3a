"""Concurrent jobs claim different GPUs and release them however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from segzoo.registry import ConfigError
from segzoo.runs import locks

CLAIM_SCRIPT = (
    "import sys, time; from pathlib import Path; from segzoo.runs.locks import claim_gpu\n"
    "print(claim_gpu(2, Path(sys.argv[1]), jobs_per_gpu=int(sys.argv[2])), flush=True); time.sleep(60)"
)


@pytest.fixture
def start(tmp_path):
    processes = []

    def start_job(jobs_per_gpu=1):
        process = subprocess.Popen(
            [sys.executable, "-c", CLAIM_SCRIPT, str(tmp_path), str(jobs_per_gpu)], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process, int(process.stdout.readline())  # type: ignore[union-attr]

    yield start_job
    for process in processes:
        process.kill()
        process.wait()


class AllInUse(Exception):
    pass


def raise_all_in_use():
    raise AllInUse


def test_jobs_claim_different_gpus_and_a_killed_job_releases_its_own(start, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_claimed", {})
    (_, first), (other, second) = start(), start()
    assert {first, second} == {0, 1}
    with pytest.raises(AllInUse):
        locks.claim_gpu(2, tmp_path, raise_all_in_use)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert locks.claim_gpu(2, tmp_path, raise_all_in_use) == second
    assert locks.claim_gpu(2, tmp_path, raise_all_in_use) == second  # the next job of the same process


def test_shared_gpus_are_filled_evenly(start):
    claimed = [start(jobs_per_gpu=2)[1] for _ in range(4)]
    assert claimed == [0, 1, 0, 1]


def test_a_lock_never_empties_a_file_behind_a_link(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_claimed", {})
    victim, directory = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    directory.mkdir(mode=0o700)
    for name in ("run.lock", "0-0.lock"):
        (directory / name).symlink_to(victim)
    with pytest.raises(ConfigError, match=r"run\.lock is a link.*rm '"):
        locks.lock_directory(directory)
    with pytest.raises(ConfigError, match="0-0.lock is a link"):
        locks.claim_gpu(1, directory, raise_all_in_use)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("unsafe", ["link", "writable for all"])
def test_a_gpu_directory_that_others_control_is_rejected(tmp_path, monkeypatch, unsafe):
    monkeypatch.setattr(locks, "_claimed", {})
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    directory = tmp_path / f"segzoo-gpus-{os.getuid()}"
    target = directory if unsafe == "writable for all" else tmp_path / "other"
    target.mkdir()
    if unsafe == "link":
        directory.symlink_to(target)
    else:
        directory.chmod(0o777)
    with pytest.raises(ConfigError, match="set TMPDIR"):
        locks.claim_gpu(1)
    assert list(target.iterdir()) == []
