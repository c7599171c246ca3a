"""The five networks of the article's history, trained alike on CamVid.

Every network is trained from scratch by ``experiment=history`` on ResNet-50 at half width, and those that the papers built on VGG16 also on
``vgg16_bn``. Runs that differ only in their seed form one row. Images are halved for the network, and its scores are resized to the labels'
480x360. Nothing is chosen on the validation images: the last checkpoint is scored. Networks with random weights are timed in every runtime.

``--tenth`` trains a tenth of the steps. An interrupted study continues where it stopped if it is given the same output directory. The scores
of each run are kept in ``benchmarks/results/history/`` or ``history_tenth/``, and such a run is not trained again: to repeat it, remove its
files there and choose another output directory. Two CPU cores take days for the whole study, and one core with AVX512_BF16 three hours for a tenth of it. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from benchmarks.accuracy.compare_camvid import evaluate, with_seeds
from benchmarks.harness.camvid_drives import FRAME_BLOCKS
from benchmarks.harness.kept_evaluations import KeptRun, is_kept, keep_evaluation, kept_run
from benchmarks.harness.result_files import ROOT, without_path, write_result
from benchmarks.harness.tool_runs import run_config, run_summary, run_unless_finished, train_or_continue
from segzoo.device import pick_precision
from segzoo.workflows.compare.comparison import compare_evaluations

INPUT = (180, 240)  # height and width of the images that the networks see
INPUT_OVERRIDE = f"protocol.input_hw=[{INPUT[0]},{INPUT[1]}]"
SIZES = ((360, 480), (1024, 2048))  # at which they are timed
RUNTIMES = ("eager", "openvino")
TIMED = ("data=camvid", "num_classes=11")


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        model: override of the model.
        seeds: number of runs.
        backbone: overrides of the backbone, if it is not that of the experiment.
    """

    model: str
    seeds: int
    backbone: tuple[str, ...] = ()

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides of tools/train.py."""
        return self.model, *self.backbone

    @property
    def timed(self) -> tuple[str, ...]:
        """Overrides of tools/bench.py."""
        return self.model, *(self.backbone or ("backbone=resnet50_deep_half",)), *TIMED


VGG = ("backbone=vgg16_bn",)
ROWS = {
    "fcn": Row("model=fcn", 2),
    "parsenet": Row("model=parsenet", 2),
    "deeplab_largefov": Row("model=deeplab_largefov", 2),
    "pspnet": Row("model=pspnet", 3),
    "icnet": Row("model=icnet", 3),
    "fcn_vgg": Row("model=fcn", 2, VGG),
    "parsenet_vgg": Row("model=parsenet", 2, VGG),
    "deeplab_largefov_vgg": Row("model=deeplab_largefov", 2, (*VGG, "backbone.pool=deeplab")),  # whose corners align
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output directory, the length, and the rows."""
    parser.add_argument("out", type=Path, help="directory for the runs, their scores and times")
    parser.add_argument("--tenth", action="store_true", help="experiment=history_tenth, whose result is history_tenth.json")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="train only these; all by default")
    parser.add_argument("--seeds", type=int, help="at most this many seeds per row")
    parser.add_argument("--finished", action="store_true", help="train nothing: score the runs that have finished")
    parser.add_argument("--runs-only", action="store_true", help="only train and score: compare and time nothing")


def train(name: str, overrides: tuple[str, ...], experiment: str, seeds: Iterable[int], out: Path) -> list[Path]:
    """Train a network with every seed and return its runs."""
    runs = []
    for seed in seeds:
        runs.append(out / "runs" / f"{name}-{seed}")
        require_length(runs[-1], experiment)
        result = train_or_continue(runs[-1], f"experiment={experiment}", *overrides, "workers=1", f"seed={seed}")
        print(f"{name}, seed {seed}: trained in {result['train_minutes']:.1f} minutes", flush=True)
    return runs


def finished(name: str, experiment: str, seeds: Iterable[int], out: Path) -> list[Path]:
    """Return the directories of a row's runs that have finished."""
    runs = [out / "runs" / f"{name}-{seed}" for seed in seeds]
    for run in runs:
        require_length(run, experiment)
    return [run for run in runs if (run / "result.json").exists() and run_summary(run)["finished"]]


def require_length(run: Path, experiment: str) -> None:
    """Reject a run of another length, which would be continued."""
    if (run / "config.yaml").exists():
        check_steps(str(run), run_config(run), experiment, "Choose another directory for this length.")


def check_steps(name: str, config: dict[str, Any], experiment: str, hint: str) -> None:
    """Raise SystemExit if a training has other steps than the experiment."""
    wanted = yaml.safe_load((ROOT / "conf/experiment" / f"{experiment}.yaml").read_text(encoding="utf-8"))["steps"]
    if config["steps"] != wanted:
        raise SystemExit(f"{name} is a run of {config['steps']} steps, and {experiment} has {wanted}. {hint}")


def kept_runs(name: str, experiment: str, seeds: Iterable[int]) -> list[KeptRun]:
    """Return the kept runs of a row."""
    found = [kept_run(experiment, run) for seed in seeds if is_kept(experiment, run := f"{name}-{seed}")]
    for run in found:
        check_steps(
            run.evaluation.name,
            run.training["config"],
            experiment,
            "Remove its files from benchmarks/results, and train in another directory.",
        )
    return found


def times(name: str, out: Path) -> list[dict[str, Any]]:
    """Time a row's network in every runtime at every size.

    It has random weights, and computes in bf16 if the processor multiplies in it, else in fp32.
    """
    rows, precision = [], pick_precision("auto", torch.device("cpu"))
    for runtime in RUNTIMES:
        for height, width in SIZES:
            result = out / "times_random" / f"{name}-{runtime}-{height}" / "bench.json"
            words = (*ROWS[name].timed, f"runtime={runtime}", f"hw=[{height},{width}]", f"precision={precision}")
            rows.append(run_unless_finished(result, "bench", *words)[0])
    return rows


def compare(runs: dict[str, list[KeptRun]]) -> dict[str, Any]:
    """Compare the rows, with the same blocks of frames as ``compare_camvid``."""
    compared = with_seeds(compare_evaluations([run.evaluation for own in runs.values() for run in own], group_by=FRAME_BLOCKS))
    if len(compared["models"]) != len(runs):
        models = ", ".join(model["name"] for model in compared["models"])
        raise SystemExit(f"the seeds of a row differ in more settings, which makes {len(compared['models'])} models: {models}")
    return compared


def keep_runs(name: str, seeds: Iterable[int], experiment: str, args: argparse.Namespace) -> list[KeptRun]:
    """Train and score the runs of a row that are not kept."""
    out = args.out.absolute()
    for seed in seeds:
        if is_kept(experiment, f"{name}-{seed}"):
            print(f"{name}, seed {seed}: kept in benchmarks/results/{experiment}, not trained again", flush=True)
            continue
        if args.finished:
            runs = finished(name, experiment, [seed], out)
        else:
            runs = train(name, ROWS[name].overrides, experiment, [seed], out)
        for run in runs:
            folder = evaluate(run, "whole", [INPUT_OVERRIDE], out)
            print(keep_evaluation(experiment, run, folder, without_path(args.command, args.out)), flush=True)
    return kept_runs(name, experiment, seeds)


def main(args: argparse.Namespace) -> None:
    """Train all rows, keep and compare their scores, and time them."""
    if len(args.rows) < 2 and not args.runs_only:
        raise SystemExit("--rows: name two or more to compare, or add --runs-only")
    experiment = "history_tenth" if args.tenth else "history"
    runs = {
        name: keep_runs(name, range(min(ROWS[name].seeds, args.seeds or ROWS[name].seeds)), experiment, args) for name in args.rows
    }
    if args.runs_only:
        return
    if unknown := [name for name, own in runs.items() if not own]:
        raise SystemExit(f"no run of {', '.join(unknown)} has finished: train without --finished, or leave it out of --rows")
    compared = compare(runs)
    rows = {
        name: table_row(model, own, times(name, args.out.absolute()))
        for (name, own), model in zip(runs.items(), compared["models"], strict=True)
    }
    content = {"rows": rows, "timed_weights": "random", "pairs": compared["pairs"], "images": compared["images"], "input_hw": INPUT}
    print(write_result(experiment, without_path(args.command, args.out), content))


def table_row(model: dict[str, Any], runs: list[KeptRun], timed: list[dict[str, Any]]) -> dict[str, Any]:
    """Return scores, costs and times of a row."""
    results = [run.training["result"] for run in runs]
    return {
        "model": model["name"],
        "miou": model["miou"],
        "miou_interval": model["interval"],
        "seeds": model["seeds"],
        "per_class": {title: score["iou"] for title, score in model["per_class"].items()},
        "params": results[0]["params"],
        "gmacs": timed[0]["gmacs"],
        "minutes": [result["train_minutes"] for result in results],
        "steps": results[0]["steps"],
        "times": [{key: time[key] for key in ("runtime", "hw", "precision", "ms_per_image", "threads")} for time in timed],
    }
