"""Training steps, compiled and not, compared with peer libraries.

Forward, loss, backward and SGD on random images of 19 classes, in the memory order that segzoo's trainings choose on this processor, in fp32,
and in bf16 too if the processor multiplies in it. ``compiled`` is segzoo with compile=true; its first step, which compiles the network, is
not timed. All sides train interleaved in one process, and a ratio below 1 means that the first side is faster.

About two hours on one core with AVX512_BF16. The output directory keeps the row of each network, crop and precision, so an interrupted
measurement continues, and options choose a part of it. The result file is written when all rows are there, from one commit. Needs
"segzoo[peers]" and a C++ compiler.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
from pathlib import Path
from typing import Any

from benchmarks.harness.interleaved_timing import ratio_interval, time_interleaved
from benchmarks.harness.result_files import read_json, write_result
from benchmarks.harness.training_steps import CASES, CPU, build_step, case_columns, crop_of, random_batch
from segzoo.device import FloatFormat, pick_precision
from segzoo.io import write_json
from segzoo.runs.environment import git_commit

BATCHES = {(360, 480): 8, (713, 713): 2}  # height and width of the crops, and their number
SIDES, ROUNDS = ("segzoo", "compiled", "peer"), 3
Case = tuple[str, tuple[int, int], FloatFormat]  # network, crop, precision
PRECISIONS: tuple[FloatFormat, ...] = ("fp32",) if pick_precision("auto", CPU) == "fp32" else ("fp32", "bf16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output directory and the options that narrow the selection."""
    parser.add_argument("out", type=Path, help="directory for the rows")
    parser.add_argument("--model", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    parser.add_argument("--crop", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=f"one of {list(BATCHES)}; default: all")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: all that this processor multiplies in")


def measure(name: str, crop: tuple[int, int], precision: FloatFormat) -> dict[str, Any]:
    """Train all sides of a network interleaved and return its row."""
    size, batch = crop_of(name, crop), BATCHES[crop]
    x, label = random_batch(size, batch)
    steps = {side: build_step(name, side, precision)[1] for side in SIDES}
    calls = {side: lambda step=step: step(x, label) for side, step in steps.items()}
    taken = time_interleaved(calls, seconds=0, min_rounds=ROUNDS)
    row = case_columns(name, size, batch, ROUNDS) | {"precision": precision}
    row |= {f"{side}_ms": 1000 * statistics.median(times) for side, times in taken.items()}
    return row | {
        "time": ratio_interval(taken["segzoo"], taken["peer"]),
        "compiled_time": ratio_interval(taken["compiled"], taken["peer"]),
        "compiled_to_eager": ratio_interval(taken["compiled"], taken["segzoo"]),
    }


def measure_or_read(folder: Path, case: Case) -> dict[str, Any]:
    """Return the row of a case, measured if it is missing.

    Raises:
        SystemExit: The row is of another commit.
    """
    path, commit = row_file(folder, case), git_commit()
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"git": commit, "row": measure(*case)})
        gc.collect()
    content = read_json(path)
    if content["git"] != commit:
        raise SystemExit(
            f"{path} was measured at {content['git']}, but the checkout is at {commit}. Check out that commit, or remove the file to "
            "measure again."
        )
    return content["row"]


def row_file(folder: Path, case: Case) -> Path:
    """Return the file of a case in the output directory."""
    name, (height, width), precision = case
    return folder / f"{name}-{height}x{width}-{precision}.json"


def main(args: argparse.Namespace) -> None:
    """Measure the selected networks, crops and precisions."""
    crops = [tuple(args.crop)] if args.crop else list(BATCHES)
    if unknown := set(crops) - set(BATCHES):
        raise SystemExit(f"--crop: expected one of {list(BATCHES)}, got {unknown.pop()}")
    precisions = (args.precision,) if args.precision else PRECISIONS
    for case in itertools.product(args.model, crops, precisions):
        print(measure_or_read(args.out, case), flush=True)
    cases = list(itertools.product(CASES, BATCHES, PRECISIONS))
    if missing := [path.name for case in cases if not (path := row_file(args.out, case)).exists()]:
        print("no result file yet; missing rows: " + ", ".join(missing))
        return
    rows = [measure_or_read(args.out, case) for case in cases]
    packages = ("mmsegmentation", "segmentation-models-pytorch")
    print(write_result("training_step", "python -m benchmarks costs/training_step <out>", rows, packages=packages))
