"""Long predictions: memory, open files, and a process that is killed."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predictions import predict_source
from test_video_source import write_video
from toy_training import INFO, Toy

from segzoo.io import remove_stale_temp_files

MEGABYTE = 2**20
HELPERS = Path(__file__).parents[1] / "helpers"
HW = (120, 160)
PIXELS = HW[0] * HW[1] * 3


class Observed(Toy):
    """Records memory and open files of the process at each image."""

    def __init__(self):
        super().__init__()
        self.memory, self.arrays, self.handles = [], [], []

    def forward(self, x):
        self.memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        self.arrays.append(tracemalloc.get_traced_memory()[0])
        self.handles.append(len(os.listdir("/proc/self/fd")))
        return super().forward(x)


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (HW[0] // 8, HW[1] // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)).save(
            folder / f"{number:04d}.png"
        )
    return folder


@pytest.fixture
def traced_arrays():
    """Let Python count the memory of its objects, NumPy's arrays included."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize(("images", "frames"), [(40, 40), pytest.param(2000, 3000, marks=pytest.mark.slow)], ids=["short", "long"])
def test_memory_and_open_files_do_not_grow(tmp_path, traced_arrays, images, frames):
    sources = write_images(tmp_path / "images", images), write_video(tmp_path / "clip.avi", frames, HW, noise=True)
    for source, count, overlays in zip(sources, (images, frames), ("jpg", "video"), strict=True):
        torch.manual_seed(0)
        model = Observed()
        done = predict_source(
            model, INFO, tmp_path / source.stem, source, overlays=overlays, confidence="max", fail_if={"road": "5px"}
        )
        assert done["images"] == count == len(model.memory)
        quarter = count // 4
        early, late = slice(quarter, 2 * quarter), slice(-quarter, None)
        assert min(model.handles[late]) - min(model.handles[early]) < 3
        assert min(model.arrays[late]) - min(model.arrays[early]) < 4 * PIXELS  # the number of images under way varies
        assert statistics.median(model.memory[late]) - statistics.median(model.memory[early]) < 0.1 * count * PIXELS + 8 * MEGABYTE


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from predictions import predict_source
from toy_training import INFO, Toy

class Killed(Toy):
    seen = 0

    def forward(self, x):
        self.seen += 1
        if self.seen == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

torch.manual_seed(0)
predict_source(Killed(), INFO, Path(sys.argv[1]), Path(sys.argv[2]), overlays="jpg")
"""


@pytest.mark.crash
def test_a_killed_prediction_does_only_the_rest(tmp_path):
    source, out = write_images(tmp_path / "images", 20), tmp_path / "out"
    command = [sys.executable, "-c", SCRIPT, str(out), str(source)]
    process = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(HELPERS)}, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    rows = [line for line in (out / "images.csv").read_text().splitlines()[1:] if line.count(",") > 4]
    assert 1 <= len(rows) <= 8
    remove_stale_temp_files(out)  # as create_prediction_dir does: the process may have been killed while it wrote one
    torch.manual_seed(0)
    model = Observed()
    done = predict_source(model, INFO, out, source, resumed=True, overlays="jpg")
    assert (done["images"], done["done_before"], len(model.memory)) == (20, len(rows), 20 - len(rows))
    names = [line.split(",")[0] for line in (out / "images.csv").read_text().splitlines()[1:]]
    assert names == [f"{number:04d}" for number in range(20)] and len(list((out / "labels").iterdir())) == 20
    whole = tmp_path / "whole"
    torch.manual_seed(0)
    predict_source(Toy(), INFO, whole, source, overlays="none")
    assert all((out / "labels" / path.name).read_bytes() == path.read_bytes() for path in (whole / "labels").iterdir())
