"""Pruning methods compared on ICNet at half its channels, on CamVid.

Each variant starts from one full-width network and fine-tunes for 600 steps on eight crops of 320x240; the baseline is half width trained
from scratch for as many steps in total. The last checkpoints are scored on all validation images; differences are paired, and draw blocks of
successive frames.

Two hours. Finished runs in the output directory are not repeated, so the variants can be run one by one. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.harness.camvid_drives import counts_by_block
from benchmarks.harness.result_files import read_json, write_result
from benchmarks.harness.tool_runs import (
    CAMVID_FINETUNING,
    NO_REPORT,
    latency_by_run,
    run_environment,
    run_summary,
    run_tool,
    run_unless_finished,
)
from segzoo.evaluation.bootstrap import bootstrap_miou, paired_bootstrap_miou
from segzoo.workflows.prune.stages import finetuned_result

STEPS, SIZE = 600, (1024, 2048)
DISTILL = ["distill=teacher", "distill.layers=[conv5_4]"]
HALF, ITERATIVE = ["pruner.keep_ratio=0.5"], ["pruner.keep_schedule=[0.75,0.5]"]
VARIANTS: dict[str, tuple[list[str], int]] = {  # overrides of tools/prune.py, number of seeds
    "l1": (["pruner=l1", *HALF], 3),
    "random": (["pruner=random", *HALF], 3),
    "scratch": ([], 3),
    "l1 iterative": (["pruner=l1", *ITERATIVE], 1),
    "l1 distilled": (["pruner=l1", *HALF, *DISTILL], 1),
    "l1 iterative distilled": (["pruner=l1", *ITERATIVE, *DISTILL], 1),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the trained network, the output directory and the selection."""
    parser.add_argument("start", type=Path, help="run directory of experiment=camvid_full")
    parser.add_argument("out", type=Path, help="directory for the runs of all variants")
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="run only these (default: all)")


def train_variant(name: str, seed: int, start: Path, out: Path) -> None:
    """Train one variant unless it is finished."""
    common = [*CAMVID_FINETUNING, f"seed={seed}", f"out={out}", "resume=auto"]
    if name == "scratch":
        steps = run_summary(start)["steps"] + STEPS
        schedule = ["optim.lr=0.002", "schedule.warmup=100", f"steps={steps}", "eval_every=300"]
        run_tool("train", "model=icnet_half", "data=camvid", *common, *schedule)
        return
    overrides = [*VARIANTS[name][0], *([f"pruner.seed={seed}"] if name == "random" else [])]
    run_tool("prune", f"ckpt={start}", *overrides, *common, *NO_REPORT, f"steps={STEPS}", "eval_every=200")


def score_last(run: Path, out: Path) -> Path:
    """Score the last checkpoint, and return the evaluation directory.

    The best one is chosen on the validation images, among more evaluations in longer trainings.
    """
    folder = out / "last" / run.name
    run_unless_finished(folder / "summary.json", "eval", f"ckpt={run / 'checkpoints' / str(run_summary(run)['steps'])}")
    return folder


def result_row(name: str, seed: int, run: Path, others: dict[str, Path], out: Path) -> dict[str, Any]:
    """Return a run's scores and its paired differences to other runs."""
    result, folder = run_summary(run), score_last(run, out)
    pruned = next((stage for stage in result.get("report", []) if stage["what"] == "pruned"), None)
    row = finetuned_result(run, bench_hw=SIZE) | {"what": name, "seed": seed}
    row |= {"miou": read_json(folder / "summary.json")["miou"], "miou_interval": bootstrap_miou(counts_by_block(folder))}
    row |= {"steps": result["steps"], "miou_pruned": pruned and pruned["miou"]}
    row["against"] = {
        other: paired_bootstrap_miou(counts_by_block(folder), counts_by_block(score_last(path, out)))
        for other, path in others.items()
        if path != run and (path / "result.json").exists()
    }
    return row | {"git": run_environment(run)["git"]}


def main(args: argparse.Namespace) -> None:
    """Train the selected variants and write the rows of finished ones."""
    rows: list[dict[str, Any]] = []
    for name, (_, seeds) in VARIANTS.items():
        for seed in range(seeds):
            out = args.out / f"{name.replace(' ', '_')}_{seed}"
            if name in args.variant or (out / "result.json").exists():
                train_variant(name, seed, args.start, out)
                others = {"before": args.start, "l1": args.out / f"l1_{seed}", "scratch": args.out / f"scratch_{seed}"}
                rows.append(result_row(name, seed, out, others, args.out.absolute()))
    full = result_row("full width", 0, args.start.absolute(), {}, args.out.absolute())
    times = latency_by_run({"full": args.start, "half": args.out / "l1_0"}, SIZE)
    print(write_result("pruning_camvid", args.command, {"rows": [full, *rows], "times": times}))
