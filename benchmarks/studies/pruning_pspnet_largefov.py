"""PSPNet and LargeFOV on ResNet-50, pruned to half their channels.

Each trained network is pruned in one step and fine-tuned for 200 steps on eight crops of 240x180. Scores are on all validation images;
latency is measured at their size once all networks are trained. Finished runs in the output directory are not repeated. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.harness.result_files import write_result
from benchmarks.harness.tool_runs import NO_REPORT, latency_by_run, run_environment, run_summary, run_tool

SIZE = (360, 480)
PRUNING = ("pruner=l1", "pruner.keep_ratio=0.5", "steps=200", "augment.crop=[180,240]", "schedule.warmup=10")
REPORT = ("eval_every=100", "num_val_images=0", *NO_REPORT, f"bench_hw=[{SIZE[0]},{SIZE[1]}]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output directory and the trained networks."""
    parser.add_argument("out", type=Path, help="directory for the pruned runs")
    parser.add_argument("run", type=Path, nargs="+", help="run directories of experiment=camvid_pspnet and camvid_largefov")


def prune(start: Path, out: Path) -> dict[str, Any]:
    """Prune and fine-tune a run unless done, and return its stages."""
    run_tool("prune", f"ckpt={start}", *PRUNING, *REPORT, f"out={out}", "resume=auto")
    result = run_summary(out)
    return {key: result[key] for key in ("report", "steps", "best_step")} | {"git": run_environment(out)["git"]}


def main(args: argparse.Namespace) -> None:
    """Prune every network, then measure all latencies."""
    rows = {start.name: prune(start, args.out / start.name) for start in args.run}
    for start in args.run:
        rows[start.name]["times"] = latency_by_run({"before": start, "after": args.out / start.name}, SIZE)
    print(write_result("pruning_others", args.command, rows))
