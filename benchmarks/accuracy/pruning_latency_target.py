"""Pruning ICNet to a latency target, checked by interleaved timing.

In each runtime the network is timed, ``tools/prune.py`` prunes it to 60 % of that latency, and both networks are then timed interleaved,
from decoded image to labels. On a machine of varying speed the search measures a different latency of the unpruned network than the one that the
target was derived from: "target_ratio" is the target as a fraction of the search's own measurement, to be compared with the interleaved
ratio.

Half an hour on an idle machine. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.interleaved_timing import compare_to_peer, time_interleaved
from benchmarks.harness.result_files import read_json, write_result
from benchmarks.harness.tool_runs import CAMVID_CROPS, NO_REPORT, run_summary, run_tool
from segzoo.workflows.benchmark.runner import make_segmenter
from segzoo.workflows.benchmark.workload import benchmark_images, build_workload
from segzoo.workflows.prune.stages import benchmark_before_after

FRACTION, STEPS, SIZE = 0.6, 60, (1024, 2048)
RUNTIMES = ("openvino", "eager")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the trained network and the output directory."""
    parser.add_argument("start", type=Path, help="run directory of experiment=camvid_full")
    parser.add_argument("out", type=Path, help="directory for the pruned runs, one per runtime")


def build_segmenter(ckpt: Path, runtime: str) -> Any:
    """Return a call that segments one image with a checkpoint in bf16."""
    loaded = build_workload({}, ckpt=str(ckpt))
    return make_segmenter(
        loaded.model, loaded.info, runtime, "bf16", benchmark_images(loaded.images, 1, hw=SIZE), torch.device("cpu")
    )


def prune_to_target(start: Path, out: Path, runtime: str) -> None:
    """Prune a run to the target fraction of its latency."""
    rows = benchmark_before_after({"before": str(start)}, bench_runtimes=(runtime,), bench_hw=SIZE)["before"]
    before = rows[0]["ms_per_image"]["p50"]
    target = [f"pruner.runtime={runtime}", f"pruner.hw=[{SIZE[0]},{SIZE[1]}]", f"pruner.target_ms={FRACTION * before:.4g}"]
    training = [*CAMVID_CROPS, f"steps={STEPS}", "schedule.warmup=5"]
    run_tool("prune", f"ckpt={start}", "pruner=l1", *target, *training, *NO_REPORT, f"out={out}")


def measure(start: Path, out: Path, runtime: str) -> dict[str, Any]:
    """Prune a run unless that is done, and compare both networks."""
    if not (out / "report.md").exists():  # the last file that a finished run writes
        prune_to_target(start, out, runtime)
    search = read_json(out / "target_search.json")
    calls = {"pruned": build_segmenter(out, runtime), "unpruned": build_segmenter(start, runtime)}
    taken = time_interleaved(calls, seconds=30, min_rounds=20, warmup=3)
    ratio = compare_to_peer(taken["pruned"], taken["unpruned"])
    row = {"runtime": runtime, "precision": "bf16", "hw": list(SIZE), "steps": STEPS}
    row |= {key: search[key] for key in ("keep_ratio", "target", "trials")}
    row |= {"after_ms": ratio.pop("ours_ms"), "before_ms": ratio.pop("peer_ms")} | ratio
    row["target_ratio"] = search["target"]["value"] / search["trials"][-1]["ms"]
    return row | {key: run_summary(out)["report"][-1][key] for key in ("params", "gmacs", "miou")}


def main(args: argparse.Namespace) -> None:
    """Prune and compare in every runtime."""
    rows = [measure(args.start, args.out / runtime, runtime) for runtime in RUNTIMES]
    print(write_result("pruning_aim", args.command, rows, packages=("openvino",)))
