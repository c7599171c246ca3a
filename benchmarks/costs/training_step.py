"""Training steps, compiled and not, compared with peer libraries.

Forward, loss, backward and SGD on random images of 19 classes, in the memory order that segzoo's trainings choose on this processor, in fp32,
and in bf16 too if the processor multiplies in it. ``compiled`` is segzoo with compile=true; its first step, which compiles the network, is
not timed. All sides train interleaved in one process, and a ratio below 1 means that the first side is faster.

About two hours on one core with AVX512_BF16. The result file is written only if no option narrows the selection. Needs "segzoo[peers]" and a C++
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
from benchmarks.harness.training_steps import CASES, CPU, build_step, case_columns, random_batch
from segzoo.device import FloatFormat, pick_precision

BATCHES = {(360, 480): 8, (713, 713): 2}  # height and width of the crops, and their number
SIDES, ROUNDS = ("segzoo", "compiled", "peer"), 3
PRECISIONS: tuple[FloatFormat, ...] = ("fp32",) if pick_precision("auto", CPU) == "fp32" else ("fp32", "bf16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that narrow the selection."""
    parser.add_argument("--model", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    parser.add_argument("--crop", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=f"one of {list(BATCHES)}; default: all")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: all that this processor multiplies in")


def measure(name: str, crop: tuple[int, int], precision: FloatFormat) -> dict[str, Any]:
    """Train all sides of a network interleaved and return its row."""
    x, label = random_batch(crop, BATCHES[crop])
    steps = {side: build_step(name, side, precision)[1] for side in SIDES}
    calls = {side: lambda step=step: step(x, label) for side, step in steps.items()}
    taken = time_interleaved(calls, seconds=0, min_rounds=ROUNDS)
    row = case_columns(name, crop, BATCHES[crop], ROUNDS) | {"precision": precision}
    row |= {f"{side}_ms": 1000 * statistics.median(times) for side, times in taken.items()}
    return row | {
        "time": ratio_interval(taken["segzoo"], taken["peer"]),
        "compiled_time": ratio_interval(taken["compiled"], taken["peer"]),
        "compiled_to_eager": ratio_interval(taken["compiled"], taken["segzoo"]),
    }


def main(args: argparse.Namespace) -> None:
    """Measure the selected networks and crops."""
    crops = [tuple(args.crop)] if args.crop else list(BATCHES)
    if unknown := set(crops) - set(BATCHES):
        raise SystemExit(f"--crop: expected one of {list(BATCHES)}, got {unknown.pop()}")
    precisions = (args.precision,) if args.precision else PRECISIONS
    rows = []
    for name, crop, precision in itertools.product(args.model, crops, precisions):
        rows.append(measure(name, crop, precision))
        gc.collect()
        print(rows[-1], flush=True)
    if args.model == list(CASES) and not args.crop and not args.precision:
        print(write_result("training_step", args.command, rows, packages=("mmsegmentation", "segmentation-models-pytorch")))
