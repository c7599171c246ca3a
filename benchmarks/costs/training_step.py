"""Training steps, compiled and not, compared with peer libraries.

Forward, loss, backward and SGD in fp32 on random images of 19 classes, in the memory order that segzoo's trainings choose on this processor.
``compiled`` is segzoo with compile=true; its first step, which compiles the network, is not timed. All sides train in one process and take
turns, and a ratio below 1 means that the first side is faster.

About 40 minutes on two cores with AVX2. The result file is written only if no option narrows the selection. Needs "segzoo[peers]" and a C++
compiler.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
from typing import Any

from benchmarks.harness.interleaved_timing import ratio_interval, time_interleaved
from benchmarks.harness.result_files import write_result
from benchmarks.harness.training_steps import CASES, build_step, case_columns, random_batch

CROPS = ((360, 480), (713, 713))
SIDES, BATCH, ROUNDS = ("segzoo", "compiled", "peer"), 2, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that narrow the selection."""
    parser.add_argument("--model", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    parser.add_argument("--crop", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=f"default: {CROPS}")


def measure(name: str, crop: tuple[int, int]) -> dict[str, Any]:
    """Train all sides of a network interleaved and return its row."""
    x, label = random_batch(crop, BATCH)
    steps = {side: build_step(name, side)[1] for side in SIDES}
    calls = {side: lambda step=step: step(x, label) for side, step in steps.items()}
    taken = time_interleaved(calls, seconds=0, min_rounds=ROUNDS)
    row = case_columns(name, crop, BATCH, ROUNDS)
    row |= {f"{side}_ms": 1000 * statistics.median(times) for side, times in taken.items()}
    return row | {
        "time": ratio_interval(taken["segzoo"], taken["peer"]),
        "compiled_time": ratio_interval(taken["compiled"], taken["peer"]),
        "compiled_to_eager": ratio_interval(taken["compiled"], taken["segzoo"]),
    }


def main(args: argparse.Namespace) -> None:
    """Measure the selected networks and crops."""
    rows = []
    for name, crop in itertools.product(args.model, [tuple(args.crop)] if args.crop else CROPS):
        rows.append(measure(name, crop))
        gc.collect()
        print(rows[-1], flush=True)
    if args.model == list(CASES) and not args.crop:
        print(write_result("training_step", args.command, rows, packages=("mmsegmentation", "segmentation-models-pytorch")))
