"""mIoU and latency of a trained network in each runtime and precision.

The network is fused for inference and scored on all validation images of its data set, one at a time; int8 is calibrated on training
images. Latency is from the decoded image to its labels, all runtimes interleaved on one image. Takes minutes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.interleaved_timing import time_interleaved
from benchmarks.harness.result_files import write_result
from segzoo.config.build import build_data
from segzoo.config.from_checkpoint import dataset_config, load_checkpoint
from segzoo.evaluation.metrics import ConfusionMatrix
from segzoo.layers.upsample_argmax import upsample_argmax
from segzoo.runtimes._base import RuntimeRequest
from segzoo.types import Dataset
from segzoo.workflows.benchmark.runner import build_runtime, inference_copy
from segzoo.workflows.benchmark.workload import benchmark_images

CALIBRATION_IMAGES = 32
RUNS = (
    ("eager", "fp32"),
    ("eager", "bf16"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the trained network."""
    parser.add_argument("run", help="run directory of experiment=camvid_best")


def score(segment: Callable[[Tensor], Tensor], data: Dataset) -> float:
    """Return the mIoU of a function from image to labels."""
    matrix = ConfusionMatrix(data.info.num_classes, data.info.ignore)
    for index in range(len(data)):
        sample = data[index]
        matrix.update(segment(torch.from_numpy(sample.image[None]))[0], sample.label)
    return matrix.scores(data.info.classes, len(data)).miou


def main(args: argparse.Namespace) -> None:
    """Score and time the network in every runtime."""
    model, info, meta = load_checkpoint(ckpt=args.run)
    section = dataset_config(meta, None)
    train, val = (build_data(section, split) for split in ("train", "val"))
    size = val[0].label.shape[:2]
    calibration = benchmark_images(train, CALIBRATION_IMAGES, hw=size)
    image = torch.from_numpy(val[0].image[None])
    segmenters: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {}
    for runtime, precision in RUNS:
        settings = {"calibration_images": CALIBRATION_IMAGES} if precision == "int8" else {}
        request = RuntimeRequest(inference_copy(model, info, torch.device("cpu")), image, precision, calibration)  # type: ignore[arg-type]
        call = build_runtime(runtime, request, **settings)
        segmenters[runtime, precision] = lambda x, call=call: upsample_argmax(call(x), size, bool(model.align_corners))
    taken = time_interleaved({run: lambda run=run: segmenters[run](image) for run in segmenters}, seconds=60, warmup=3)
    rows: list[dict[str, Any]] = []
    for (runtime, precision), segment in segmenters.items():
        row: dict[str, Any] = {"runtime": runtime, "precision": precision, "hw": list(size), "miou": score(segment, val)}
        row["ms"] = 1000 * statistics.median(taken[runtime, precision])
        row["calibrated_on"] = CALIBRATION_IMAGES if precision == "int8" else None
        rows.append(row)
        print(rows[-1], flush=True)
    for row in rows:
        row |= {"points": 100 * (row["miou"] - rows[0]["miou"]), "checkpoint_sha256": meta["sha256"], "data": info.name}
    print(write_result("runtimes_camvid", args.command, rows, packages=("onnxruntime", "openvino", "nncf")))
