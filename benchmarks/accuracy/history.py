"""The five networks of the article's history, trained alike on CamVid.

Every network is trained from scratch by ``experiment=history`` on ResNet-50 at half width, and those that the papers built on VGG16 also on
``vgg16_bn``. Runs that differ only in their seed form one row. Images are halved for the network, and its scores are resized to the labels'
480x360. Nothing is chosen on the validation images: the last checkpoint is scored. The networks with the first seed are timed in every runtime.

``--tenth`` trains a tenth of the steps. An interrupted study continues where it stopped if it is given the same output directory. Two CPU
cores take days for the whole study, and one core with AVX512_BF16 three hours for a tenth of it. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from benchmarks.accuracy.compare_camvid import compare, evaluate
from benchmarks.harness.result_files import ROOT, read_json, write_result
from benchmarks.harness.tool_runs import run_summary, run_unless_finished, train_or_continue
from segzoo.config.from_checkpoint import load_model
from segzoo.device import pick_precision
from segzoo.workflows.benchmark.model_summary import model_complexity

INPUT = (180, 240)  # height and width of the images that the networks see
INPUT_OVERRIDE = f"protocol.input_hw=[{INPUT[0]},{INPUT[1]}]"
SIZES = ((360, 480), (1024, 2048))  # at which they are timed
RUNTIMES = ("eager", "openvino")


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        overrides: of tools/train.py.
        seeds: number of runs.
    """

    overrides: tuple[str, ...]
    seeds: int


VGG = ("backbone=vgg16_bn",)
ROWS = {
    "fcn": Row(("model=fcn",), 2),
    "parsenet": Row(("model=parsenet",), 2),
    "deeplab_largefov": Row(("model=deeplab_largefov",), 2),
    "pspnet": Row(("model=pspnet",), 3),
    "icnet": Row(("model=icnet",), 3),
    "fcn_vgg": Row(("model=fcn", *VGG), 2),
    "parsenet_vgg": Row(("model=parsenet", *VGG), 2),
    "deeplab_largefov_vgg": Row(("model=deeplab_largefov", *VGG, "backbone.pool=deeplab"), 2),  # whose corners align
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output directory, the length, and the rows."""
    parser.add_argument("out", type=Path, help="directory for the runs, their scores and times")
    parser.add_argument("--tenth", action="store_true", help="experiment=history_tenth, whose result is history_tenth.json")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="train only these; all by default")
    parser.add_argument("--seeds", type=int, help="at most this many seeds per row")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--train-only", action="store_true", help="score and time nothing, and write no result")
    length.add_argument("--finished", action="store_true", help="train nothing: score and time the runs that have finished")


def train(name: str, overrides: tuple[str, ...], experiment: str, seeds: int, out: Path) -> list[Path]:
    """Train a network with every seed and return its runs."""
    runs = [out / "runs" / f"{name}-{seed}" for seed in range(seeds)]
    for seed, run in enumerate(runs):
        require_length(run, experiment)
        result = train_or_continue(run, f"experiment={experiment}", *overrides, "workers=1", f"seed={seed}")
        print(f"{name}, seed {seed}: trained in {result['train_minutes']:.1f} minutes", flush=True)
    return runs


def require_length(run: Path, experiment: str) -> None:
    """Reject a run of another length, which would be continued."""
    if not (run / "config.yaml").exists():
        return
    steps = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["steps"]
    wanted = yaml.safe_load((ROOT / "conf/experiment" / f"{experiment}.yaml").read_text(encoding="utf-8"))["steps"]
    if steps != wanted:
        raise SystemExit(
            f"{run} is a run of {steps} steps, and {experiment} has {wanted}. Choose another directory for this length."
        )


def finished(name: str, experiment: str, seeds: int, out: Path) -> list[Path]:
    """Return the directories of a row's runs that have finished."""
    runs = [out / "runs" / f"{name}-{seed}" for seed in range(seeds)]
    for run in runs:
        require_length(run, experiment)
    found = [run for run in runs if (run / "result.json").exists() and run_summary(run)["finished"]]
    if not found:
        raise SystemExit(f"no run of {name} has finished in {out / 'runs'}: train without --finished, or leave it out of --rows")
    return found


def times(run: Path, out: Path) -> list[dict[str, Any]]:
    """Time a network in every runtime at every size.

    It computes in bf16 if the processor multiplies in it, else in fp32.
    """
    rows, precision = [], pick_precision("auto", torch.device("cpu"))
    for runtime in RUNTIMES:
        for height, width in SIZES:
            result = out / "times" / f"{run.name}-{runtime}-{height}" / "bench.json"
            words = (f"ckpt={run}", f"runtime={runtime}", f"hw=[{height},{width}]", f"precision={precision}")
            row = run_unless_finished(result, "bench", *words)[0]
            rows.append({key: row[key] for key in ("runtime", "hw", "precision", "ms_per_image", "threads")})
    return rows


def main(args: argparse.Namespace) -> None:
    """Train all rows, compare their scores, and time them."""
    if len(args.rows) < 2 and not args.train_only:
        raise SystemExit("--rows: name two or more to compare, or add --train-only")
    experiment, out = "history_tenth" if args.tenth else "history", args.out.absolute()
    seeds = {name: min(ROWS[name].seeds, args.seeds or ROWS[name].seeds) for name in args.rows}
    runs = {
        name: finished(name, experiment, count, out) if args.finished else train(name, ROWS[name].overrides, experiment, count, out)
        for name, count in seeds.items()
    }
    if args.train_only:
        return
    compared = compare([evaluate(run, "whole", [INPUT_OVERRIDE], out) for name in runs for run in runs[name]], [], out / "compare")
    rows = {}
    for name, model in zip(runs, compared["models"], strict=True):
        results = [read_json(run / "result.json") for run in runs[name]]
        rows[name] = {
            "model": model["name"],
            "miou": model["miou"],
            "miou_interval": model["interval"],
            "seeds": model["seeds"],
            "per_class": {title: score["iou"] for title, score in model["per_class"].items()},
            "params": results[0]["params"],
            "gmacs": model_complexity(load_model(runs[name][0]), SIZES[0])["gmacs"],
            "minutes": [result["train_minutes"] for result in results],
            "steps": results[0]["steps"],
            "times": times(runs[name][0], out),
        }
    content = {"rows": rows, "pairs": compared["pairs"], "images": compared["images"], "input_hw": INPUT}
    print(write_result(experiment, args.command.replace(str(args.out), "<out>"), content))
