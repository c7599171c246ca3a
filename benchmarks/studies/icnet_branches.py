"""Accuracy and latency of a trained ICNet with fewer branches.

One network is evaluated with branches 4, 24 and 124, as in table 3 of the paper: mIoU on its validation images, and the time from the
normalized image to the label map, for noise of the size of that data, interleaved.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from benchmarks.harness.interleaved_timing import time_interleaved
from benchmarks.harness.result_files import write_result
from segzoo.config.build import build_data
from segzoo.config.from_checkpoint import dataset_config, load_checkpoint
from segzoo.evaluation.evaluator import evaluate
from segzoo.layers.upsample_argmax import upsample_argmax
from segzoo.models._base import SegModel

BRANCHES, ROUNDS = (4, 24, 124), 30
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the trained network."""
    parser.add_argument("run", help="run directory of experiment=camvid_best")


@torch.no_grad()
def time_branches(model: SegModel, size: tuple[int, int], precision: str) -> dict[int, float]:
    """Return the median milliseconds per image by branches."""
    x = torch.randn(1, 3, *size).contiguous(memory_format=torch.channels_last)

    def segment(branches: int) -> None:
        model.branches = branches  # type: ignore[assignment]
        upsample_argmax(model(x).main, size, model.align_corners)

    calls = {branches: lambda branches=branches: segment(branches) for branches in BRANCHES}
    with torch.autocast("cpu", PRECISIONS[precision], enabled=precision != "fp32"):
        taken = time_interleaved(calls, seconds=60, min_rounds=ROUNDS, max_rounds=ROUNDS, warmup=3)
    return {branches: 1000 * statistics.median(seconds) for branches, seconds in taken.items()}


def main(args: argparse.Namespace) -> None:
    """Score and time the network with each set of branches."""
    model, info, meta = load_checkpoint(ckpt=args.run)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = build_data(dataset_config(meta, None), "val")
    size = data[0].label.shape[:2]
    milliseconds = {precision: time_branches(model, size, precision) for precision in PRECISIONS}
    rows = []
    for branches in BRANCHES:
        model.branches = branches  # type: ignore[assignment]
        scored = evaluate(model, data, info, device="cpu", precision="bf16")
        row = {"branches": branches, "miou": scored.scores.miou, "protocol": scored.protocol, "hw": list(size)}
        row |= {f"ms_{precision}": times[branches] for precision, times in milliseconds.items()}
        rows.append(row | {"checkpoint_sha256": meta["sha256"], "data": info.name})
        print(rows[-1], flush=True)
    print(write_result("icnet_branches", args.command, rows))
