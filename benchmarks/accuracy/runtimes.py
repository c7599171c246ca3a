"""What each runtime and number format costs in mIoU: ``python -m benchmarks.runtimes_camvid <run>``, minutes.

A trained network, lean, on all validation pictures of its data set, one at a time; int8 takes its ranges from training pictures.
Times from bytes to labels, all runtimes in turns on one picture.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.interleaved_timing import in_turns
from benchmarks.harness.result_files import write_result
from segzoo.config import build_data
from segzoo.layers.labels import grow_labels
from segzoo.measured import lean_copy, runtime_call
from segzoo.metrics import ConfusionMatrix
from segzoo.runtimes._base import Order
from segzoo.subject import bench_pictures
from segzoo.types import Dataset
from segzoo.zoo import data_section, load_with_config

CALIBRATE, TURNS = 32, 30
RUNS = (
    ("eager", "fp32"),
    ("eager", "bf16"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)


def score(label: Callable[[Tensor], Tensor], data: Dataset) -> float:
    """The mIoU of what labels one picture."""
    counts = ConfusionMatrix(data.card.num_classes, data.card.ignore)
    for index in range(len(data)):
        sample = data[index]
        counts.update(label(torch.from_numpy(sample.image[None]))[0], sample.label)
    return counts.scores(data.card.classes, len(data)).miou


def main(run: str) -> None:
    model, card, meta = load_with_config(ckpt=run)
    section = data_section(meta, None)
    train, val = (build_data(section, split) for split in ("train", "val"))
    size = val[0].label.shape[:2]
    seen = bench_pictures(train, CALIBRATE, hw=size)
    picture = torch.from_numpy(val[0].image[None])
    labels: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {}
    for runtime, precision in RUNS:
        words = {"calibrate": CALIBRATE} if precision == "int8" else {}
        order = Order(lean_copy(model, card, torch.device("cpu")), picture, precision, seen)  # type: ignore[arg-type]
        call = runtime_call(runtime, order, **words)
        labels[runtime, precision] = lambda x, call=call: grow_labels(call(x), size, bool(model.align_corners))
    taken = in_turns({name: lambda name=name: labels[name](picture) for name in labels}, seconds=60, most=TURNS, warm=3)
    rows = []
    for run_of, label in labels.items():
        runtime, precision = run_of
        row: dict[str, Any] = {"runtime": runtime, "precision": precision, "hw": list(size), "miou": score(label, val)}
        seen_pictures = CALIBRATE if precision == "int8" else None
        rows.append(row | {"ms": 1000 * statistics.median(taken[run_of]), "calibrated_on": seen_pictures})
        print(rows[-1], flush=True)
    for row in rows:
        row |= {"points": 100 * (row["miou"] - rows[0]["miou"]), "checkpoint_sha256": meta["sha256"], "data": card.name}
    command = f"python -m benchmarks.runtimes_camvid {Path(run).name}"
    print(write_result("runtimes_camvid", command, rows, packages=("onnxruntime", "openvino", "nncf")))


if __name__ == "__main__":
    main(sys.argv[1])
