"""Jobs that run side by side take different GPUs, and give them back however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from segzoo.runs import locks as slots

CLAIM = (
    "import sys, time; from pathlib import Path; from segzoo.runs.locks import claim_gpu\n"
    "print(claim_gpu(2, Path(sys.argv[1]), jobs_per_gpu=int(sys.argv[2])), flush=True); time.sleep(60)"
)


@pytest.fixture
def start(tmp_path):
    running = []

    def begin(jobs_per_gpu=1):
        process = subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(tmp_path), str(jobs_per_gpu)], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return process, int(process.stdout.readline())  # type: ignore[union-attr]

    yield begin
    for process in running:
        process.kill()
        process.wait()


class Full(Exception):
    pass


def full():
    raise Full


def test_no_two_jobs_share_a_gpu_and_a_killed_one_leaves_its_own(start, tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "_claimed", {})
    (_, first), (other, second) = start(), start()
    assert {first, second} == {0, 1}
    with pytest.raises(Full):
        slots.claim_gpu(2, tmp_path, full)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert slots.claim_gpu(2, tmp_path, full) == second
    assert slots.claim_gpu(2, tmp_path, full) == second  # the next job of the same process


def test_sharing_spreads_first(start):
    taken = [start(jobs_per_gpu=2)[1] for _ in range(4)]
    assert taken == [0, 1, 0, 1]
