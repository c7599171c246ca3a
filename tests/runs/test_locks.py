"""Concurrent jobs claim different GPUs and release them however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from segzoo.device import gpu_names
from segzoo.registry import ConfigError
from segzoo.runs import locks

CLAIM_SCRIPT = (
    "import sys, time; from pathlib import Path; from segzoo.runs.locks import claim_gpu\n"
    "print(claim_gpu(sys.argv[3:], Path(sys.argv[1]), jobs_per_gpu=int(sys.argv[2])), flush=True); time.sleep(60)"
)


GPUS = ("a", "b")


@pytest.fixture
def start(tmp_path):
    processes = []

    def start_job(jobs_per_gpu=1, gpus=GPUS):
        process = subprocess.Popen(
            [sys.executable, "-c", CLAIM_SCRIPT, str(tmp_path), str(jobs_per_gpu), *gpus], stdout=subprocess.PIPE, text=True
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
        locks.claim_gpu(GPUS, tmp_path, raise_all_in_use)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert locks.claim_gpu(GPUS, tmp_path, raise_all_in_use) == second
    assert locks.claim_gpu(GPUS, tmp_path, raise_all_in_use) == second  # the next job of the same process


def test_shared_gpus_are_filled_evenly(start):
    claimed = [start(jobs_per_gpu=2)[1] for _ in range(4)]
    assert claimed == [0, 1, 0, 1]


def test_jobs_on_other_gpus_do_not_wait_for_each_other(start, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "_claimed", {})
    assert [start(gpus=gpus)[1] for gpus in (GPUS, GPUS, ("c", "d"))] == [0, 1, 0]  # CUDA_VISIBLE_DEVICES=2,3 counts from 0
    assert locks.claim_gpu(("c", "d"), tmp_path, raise_all_in_use) == 1
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(locks, "_claimed", {})
    with pytest.raises(AllInUse):
        locks.claim_gpu(GPUS, tmp_path, raise_all_in_use)
    assert capsys.readouterr().out.startswith("waiting for a GPU: other jobs use all 2 that this one may use")


def test_gpus_are_named_by_what_they_are(monkeypatch):
    known = [SimpleNamespace(uuid="GPU-7"), SimpleNamespace()]
    monkeypatch.setattr(torch.cuda, "get_device_properties", known.__getitem__)
    assert gpu_names(2) == ["GPU-7", "1"]


def test_a_lock_never_empties_a_file_behind_a_link(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_claimed", {})
    victim, directory = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    directory.mkdir(mode=0o700)
    for name in ("run.lock", "a-0.lock"):
        (directory / name).symlink_to(victim)
    with pytest.raises(ConfigError, match=r"run\.lock is a link.*rm '"):
        locks.lock_directory(directory)
    with pytest.raises(ConfigError, match="a-0.lock is a link"):
        locks.claim_gpu(["a"], directory, raise_all_in_use)
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
        locks.claim_gpu(["a"])
    assert list(target.iterdir()) == []
