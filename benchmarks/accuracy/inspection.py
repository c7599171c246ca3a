"""Pitting on ball screws: from LabelMe files to a pruned int8 network.

The BSData images are converted from their LabelMe files with lists that keep all images of a spindle position on one side. ICNet half
is trained, half of the channels of every layer are removed, and the rest is fine-tuned with the unpruned network as the teacher and exported
in int8 as a bundle. The trained, the pruned and the delivered network are scored on the validation images, whole and at their own size: IoU,
the defects found, and milliseconds from an encoded image to its label map. Nothing is chosen on the validation images: every run is evaluated
once, at its end.

About 25 minutes on one core with AVX512_BF16. An interrupted run continues where it stopped if it is given the same output directory. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks.harness.result_files import without_path, write_result
from benchmarks.harness.tool_runs import NO_REPORT, run_summary, run_tool, run_unless_finished, train_or_continue

SIZE = (460, 1130)  # height and width of most images of BSData
COMMON = ("augment.crop=[224,224]", "sampler=rare_class", "loss=cross_entropy_dice", "num_val_images=0")
TRAINING = ("model=icnet_half", "steps=2000", "eval_every=2000", "schedule.warmup=60", *COMMON)
PRUNING = ("pruner.keep_ratio=0.5", "distill=teacher", "steps=600", "eval_every=600", "optim.lr=0.001", *COMMON, *NO_REPORT)
EXPORT = ("precision=int8", "bundle=true")
SCORES = ("scores=[blobs]", "defects=[Pitting]", "blob_curve=false")
RUNTIMES = {"trained": "openvino", "pruned": "openvino", "delivered": "onnxruntime"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output directory."""
    parser.add_argument("out", type=Path, help="directory for the data set, both runs and the bundle")


def convert(out: Path) -> tuple[str, ...]:
    """Convert the LabelMe files, unless they have been.

    Returns:
        The words that select the data set.
    """
    if not (out / "conf").exists():
        source = (Path(os.environ["SEGZOO_DATA"]) / "bsdata").absolute()
        run_tool(
            "dataset", "action=convert", "action.format=labelme", f"action.source={source}", "action.title=pitting", f"out={out}"
        )
    return "--config-dir", str(out / "conf"), "data=pitting"


def score(name: str, network: Path, out: Path) -> dict[str, Any]:
    """Evaluate and time a network, unless it has been."""
    size = f"hw=[{SIZE[0]},{SIZE[1]}]"
    summary = run_unless_finished(out / "scores" / name / "summary.json", "eval", f"ckpt={network}", *SCORES)
    words = (f"ckpt={network}", f"runtime={RUNTIMES[name]}", size, "scope=end_to_end")
    timing = run_unless_finished(out / "times" / name / "bench.json", "bench", *words)[0]
    blobs = summary["blobs"]["per_class"]["Pitting"]
    return {
        "network": name,
        "params": timing["params"],
        "runtime": timing["runtime"],
        "precision": timing["precision"],
        "miou": summary["miou"],
        "miou_interval": summary["miou_interval"],
        "iou": summary["per_class"]["Pitting"]["iou"],
        "blobs": {key: blobs[key] for key in ("blobs", "recall", "precision")},
        "ms_per_image": timing["ms_per_image"],
        "protocol": summary["protocol"],
    }


def main(args: argparse.Namespace) -> None:
    """Convert, train, prune, export, and score each network."""
    data = convert(args.out / "data")
    networks = {name: args.out / name for name in RUNTIMES}
    train_or_continue(networks["trained"], *data, *TRAINING)
    run_tool("prune", f"ckpt={networks['trained']}", *PRUNING, "save_every=50", "resume=auto", f"out={networks['pruned']}")
    run_unless_finished(networks["delivered"] / "export.json", "export", f"ckpt={networks['pruned']}", *EXPORT)
    rows = {
        "networks": [score(name, network, args.out) for name, network in networks.items()],
        "minutes": {name: run_summary(networks[name])["train_minutes"] for name in ("trained", "pruned")},
        "bundle_bytes": (networks["delivered"] / "bundle.zip").stat().st_size,
        "hw": SIZE,
    }
    print(write_result("inspection", without_path(args.command, args.out), rows))
