"""The pretrained network ``parts``: ICNet with a quarter of its parameters.

Trains ``experiment=parts_quick``, removes half of the channels of every layer and fine-tunes with the unpruned network as the teacher. The
weights are stored in fp16, and the stored file is scored as users load it. The network that is pruned is the better of two evaluations on
the validation images; the fine-tuning is evaluated once, at its end.

About 25 minutes on one core. Finished parts in the output directory are not repeated. The folder ``network`` in it is the one to copy to
``segzoo/checkpoints/pretrained/parts``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.harness.result_files import read_json, without_path, write_result
from benchmarks.harness.tool_runs import NO_REPORT, run_summary, run_tool
from segzoo.api import load
from segzoo.checkpoints.schema import MODEL
from segzoo.checkpoints.serialization import add_scores
from segzoo.io import sha256
from segzoo.workflows.prune.stages import finetuned_result

COMMON = ("experiment=parts_quick", "workers=1", "resume=auto", "num_val_images=0", "save_every=75")
PRUNING = ("pruner=l1", "pruner.keep_ratio=0.5", "distill=teacher", "steps=600", "eval_every=600", "optim.lr=0.002", *NO_REPORT)
SCORES = ("miou", "macc", "aacc", "fwiou", "loss", "classes_present", "per_class", "protocol", "protocol_id")  # in a manifest
SIZE = (320, 416)  # height and width of the images of parts_quick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output directory."""
    parser.add_argument("out", type=Path, help="directory for both runs and the network")


def write_network(pruned: Path, folder: Path) -> dict[str, Any]:
    """Write the network in fp16, with the scores of the stored weights.

    Returns:
        The summary of their evaluation.
    """
    load(pruned, device="cpu", runtime="eager").save_pretrained(folder, license="apache-2.0", precision="fp16")
    run_tool("eval", f"ckpt={folder}", "workers=1", f"out={folder.parent / 'eval'}", "overwrite=true")
    summary = read_json(folder.parent / "eval" / "summary.json")
    add_scores(folder, {key: summary[key] for key in SCORES})
    load(folder, device="cpu", runtime="eager").save_pretrained(folder, license="apache-2.0", precision="fp16")  # card with scores
    return summary


def main(args: argparse.Namespace) -> None:
    """Train, prune, write and score the network."""
    full, pruned, network = (args.out / name for name in ("full", "pruned", "network"))
    run_tool("train", *COMMON, f"out={full}")
    run_tool("prune", f"ckpt={full}", *COMMON, *PRUNING, f"out={pruned}")
    summary, file = write_network(pruned, network), network / MODEL
    stages = [{key: row[key] for key in ("what", "miou", "miou_interval", "params")} for row in run_summary(pruned)["report"]]
    row = {
        "stages": stages,
        "minutes": {"training": run_summary(full)["train_minutes"], "fine-tuning": run_summary(pruned)["train_minutes"]},
        "steps": {"training": run_summary(full)["steps"], "fine-tuning": run_summary(pruned)["steps"]},
        "gmacs": finetuned_result(pruned, bench_hw=SIZE)["gmacs"],
        "hw": SIZE,
        "stored": {"bytes": file.stat().st_size, "sha256": sha256(file), "precision": "fp16"}
        | {key: summary[key] for key in (*SCORES, "miou_interval")},
    }
    print(write_result("pretrained_parts", without_path(args.command, args.out), row))
