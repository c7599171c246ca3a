"""Memory of a training: freed tensors, and growth with the steps."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from toy_training import ToyData, make_components, make_run_dir, settings, train


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("VmRSS:"))


FREE_A_TENSOR = """
import sys, torch
from pathlib import Path
from segzoo.device import configure_allocator

configure_allocator(reuse_memory=sys.argv[1] == "true")
tensor = torch.ones(16 << 20)
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1])
before = resident()
del tensor
print((before - resident()) * 4096 / 1e6)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept by glibc's allocator only")
def test_freed_memory_is_kept_if_asked():
    command = [sys.executable, "-c", FREE_A_TENSOR]
    returned = {
        value: float(subprocess.run([*command, value], capture_output=True, check=True, text=True).stdout)
        for value in ("true", "false")
    }
    assert returned["true"] < 1
    assert returned["false"] > 60


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_memory_does_not_grow_with_the_steps(tmp_path, workers):
    """Between steps 100 and 300 lie 20 evaluations and checkpoints, and 40 log rows."""
    used = {}

    class LargeData(ToyData):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            image, label = (array.repeat(8, 0).repeat(8, 1) for array in (sample.image, sample.label))
            return sample._replace(image=image, label=label)

    components = make_components(train_set=LargeData(10), val_set=LargeData(2, first=100))
    schedule = components.make_schedule

    def measured(total_steps):
        factor = schedule(total_steps)

        def at(step):
            used[step] = resident_mb()
            return factor(step)

        return at

    components.make_schedule = measured
    options = settings(steps=301, eval_every=10, save_every=10, num_val_images=1, ema_decay=0.9, workers=workers)
    train(components, make_run_dir(tmp_path), **options)
    assert used[300] - used[100] < 20  # one batch kept per step would take 150 MB
