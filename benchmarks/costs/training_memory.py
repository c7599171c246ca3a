"""Peak memory of training compared with peer libraries.

Each side trains in a process of its own: forward, loss, backward and SGD in fp32, from random images of 19 classes.
Memory is the peak of the resident memory, without that of Python and its libraries. ``no_reuse`` is segzoo with reuse_memory=false, which
returns freed memory to the system as the peers do. ``checkpoint`` is that with backbone.checkpoint=true, which computes the activations of
the backbone again in the backward pass. Sides alternate over the rounds.

About 25 minutes on one core with AVX-512. The result file is written only if no option narrows the selection. Needs "segzoo[peers]".
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.harness.interleaved_timing import ratio_interval
from benchmarks.harness.result_files import write_result
from benchmarks.harness.training_steps import CASES, SAME_LAYERS, case_columns, crop_of, train_briefly

Size = tuple[int, int]
BATCHES: dict[str, tuple[Size, int]] = {  # height and width of the crops, and their number; mmsegmentation rejects a single one
    "icnet_half": ((1024, 2048), 2),
    **dict.fromkeys(("pspnet", "pspnet_32", f"pspnet_32{SAME_LAYERS}", "fcn_dilated", "parsenet", "largefov"), ((360, 480), 2)),
}
SETTINGS = {
    "segzoo": [],
    "no_reuse": ["reuse_memory=false"],
    "checkpoint": ["reuse_memory=false", "backbone.checkpoint=true"],
}
SIDES, ROUNDS, STEPS = (*SETTINGS, "peer"), 3, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that narrow the selection."""
    parser.add_argument("--model", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the crops")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"processes of each side, at least 3; default: {ROUNDS}")


def measure(name: str, size: Size, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Train all sides interleaved and return segzoo's rows."""
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                results[side].append(process.submit(train_briefly, name, side, size, batch, STEPS).result())
    memory = {side: [result["peak_mb"] for result in runs] for side, runs in results.items()}
    seconds = {side: [statistics.median(result["seconds"]) for result in runs] for side, runs in results.items()}
    return [
        case_columns(name, size, batch, rounds)
        | {"settings": settings, "mb": statistics.median(memory[side]), "peer_mb": statistics.median(memory["peer"])}
        | {"memory": ratio_interval(memory[side], memory["peer"]), "time": ratio_interval(seconds[side], seconds["peer"])}
        for side, settings in SETTINGS.items()
    ]


def main(args: argparse.Namespace) -> None:
    """Measure the selected networks."""
    rows = []
    for name in args.model:
        size, batch = BATCHES[name]
        rows += measure(name, crop_of(name, tuple(args.size) if args.size else size), batch, args.rounds)
        print(rows[-len(SETTINGS) :], flush=True)
    if args.model == list(CASES) and not args.size and args.rounds == ROUNDS:
        print(write_result("training_memory", args.command, rows, packages=("mmsegmentation", "segmentation-models-pytorch")))
