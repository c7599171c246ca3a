"""The loop of README: label, train, prune, deliver, correct, train again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from annotation_files import labelme_record, labelme_shape, write
from image_files import save

from segzoo.data.image_io import read_mask

HEIGHT, WIDTH = 64, 96
SMALL = [
    *("model=icnet", "backbone.width=0.125", "augment=none", "batch_size=2", "workers=0", "device=cpu", "steps=2"),
    *("num_val_images=0", "report=false"),
]
RUN_ALL = """
import importlib, json, os, sys
for sys.argv in json.loads(sys.argv[1]):
    importlib.import_module(f"segzoo.tools.{sys.argv[0]}").main()
"""


def photograph(folder: Path, first: int, labeled: bool) -> None:
    """Draw four images of a bright part, with LabelMe files if they are labeled."""
    for number in range(first, first + 4):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8)
        top, left = (int(rng.integers(4, side - 36)) for side in (HEIGHT, WIDTH))
        image[top : top + 32, left : left + 32] += 180
        save(folder / f"{number}.png", image)
        if labeled:
            box = [[left, top], [left + 32, top + 32]]
            part = labelme_shape("part", box, "rectangle")
            write(folder / f"{number}.json", labelme_record(part, imagePath=f"{number}.png", imageHeight=HEIGHT, imageWidth=WIDTH))


def run_all(directory: Path, *commands: list[str]) -> None:
    """Run tools in one process, which imports torch only once."""
    process = subprocess.run([sys.executable, "-c", RUN_ALL, json.dumps(commands)], capture_output=True, text=True, cwd=directory)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]


def convert(version: str) -> list[str]:
    words = ("action=convert", "action.format=labelme", "action.source=photos", "action.classes=[background,part]")
    return ["dataset", *words, f"action.title={version}", f"out=data/{version}"]


def correct(drafts: Path, folder: Path) -> None:
    """Move the drafts of labels to their images, and draw one more part."""
    for draft in sorted(drafts.glob("*.json")):
        record = json.loads(draft.read_text())
        record["shapes"].append(labelme_shape("part", [[2.0, 2.0], [12.0, 10.0]], "rectangle"))
        write(folder / draft.name, record)


@pytest.mark.slow
def test_corrections_of_a_delivered_network_train_the_next_one(tmp_path):
    pytest.importorskip("onnxruntime", reason='pip install -e ".[export]"')
    photograph(tmp_path / "photos/monday", 0, labeled=True)
    photograph(tmp_path / "photos/tuesday", 4, labeled=False)
    half = ["pruner.keep_ratio=0.5", "distill=teacher", "sensitivity=false", "bench_runtimes=[]"]
    run_all(
        tmp_path,
        convert("v1"),
        ["train", "--config-dir", "data/v1/conf", "data=v1", "data.val_ratio=0.5", *SMALL, "out=runs/v1"],
        ["prune", "ckpt=runs/v1", *half, *SMALL[2:], "out=runs/v1_half"],
        ["export", "ckpt=runs/v1_half", "bundle=true", "out=delivered"],
        ["predict", "ckpt=delivered", "source=photos/tuesday", "polygons=labelme", "out=drafts"],
    )
    correct(tmp_path / "drafts/polygons", tmp_path / "photos/tuesday")
    start = ["init.ckpt=runs/v1_half", "normalization=weights", *SMALL]
    run_all(
        tmp_path,
        convert("v2"),
        ["train", "--config-dir", "data/v2/conf", "data=v2", "data.val_ratio=0.5", *start, "out=runs/v2"],
    )
    assert len(list((tmp_path / "data/v2/labels").rglob("*.png"))) == 8
    first, pruned, second = (json.loads((tmp_path / f"runs/{name}/result.json").read_text()) for name in ("v1", "v1_half", "v2"))
    assert second["finished"] and second["params"] == pruned["params"] < first["params"]
    mask = read_mask(next((tmp_path / "data/v2/labels").rglob("4.png")))
    assert mask[5, 6] == 1, "the correction has reached the labels"
