"""Result file of a training run.

It holds the command, the config, the validation curve and the scores; the data set is named, without any path. A run that was stopped
early is kept with its best checkpoint and marked as unfinished.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.result_files import RESULTS, read_json
from benchmarks.harness.tool_runs import run_config, run_environment, run_summary
from segzoo.checkpoints.serialization import read_metadata, read_trainer
from segzoo.config.build import build_data
from segzoo.config.from_checkpoint import dataset_config, load_model
from segzoo.io import write_json
from segzoo.layers.parameters import count_parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run and the name of its result file."""
    parser.add_argument("run", type=Path, help="run directory of tools/train.py")
    parser.add_argument("name", help="name of the result file, such as camvid_icnet_half")
    parser.add_argument(
        "--scores", type=Path, help="evaluation of the run's last checkpoint by another protocol, whose scores are kept"
    )


def read_metrics(run: Path, split: str) -> list[dict[str, Any]]:
    """Return the rows of a split in ``metrics.jsonl``."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["split"] == split]


def validation_curve(run: Path) -> list[dict[str, Any]]:
    """Return step, epoch, minutes, mIoU, pixel accuracy and loss of each validation."""
    names = ("minutes", "mIoU", "mAcc", "aAcc", "loss")
    return [{"step": r["step"], "epoch": r["epoch"]} | {n: r.get(n) for n in names} for r in read_metrics(run, "val")]


def training_losses(run: Path, points: int = 40) -> list[dict[str, Any]]:
    """Return the training loss, thinned to about ``points`` rows.

    The last row is always included.
    """
    rows = [{"step": r["step"], "loss": r["loss"]} for r in read_metrics(run, "train")]
    return [*rows[:: max(1, len(rows) // points)], *rows[-1:]]


def summarize(run: Path) -> dict[str, Any]:
    """Return the summary of a run, finished or stopped early.

    A finished run stores it in ``result.json``. For a stopped one, the same fields come from its metrics and last checkpoint.
    """
    result = run_summary(run)
    if result.get("finished"):
        return result
    scores = read_metrics(run, "val")
    best, step = max(scores, key=lambda row: row["mIoU"]), int((run / "checkpoints" / "last").read_text())
    minutes = read_trainer(run / "checkpoints" / str(step))["seconds"] / 60
    values = {"finished": False, "miou": best["mIoU"], "best_step": best["step"], "last_miou": scores[-1]["mIoU"]}
    return values | {"steps": step, "train_minutes": round(minutes, 2), "params": count_parameters(load_model(run))}


def majority_baseline(section: dict[str, Any]) -> dict[str, Any]:
    """Score a constant prediction of the most frequent training class.

    Also returns the entropy of the training labels in nats, the lowest loss that ignores the image.
    """
    train, val = (build_data(section, split) for split in ("train", "val"))
    classes = train.info.classes
    train_pixels, val_pixels = (
        np.sum([np.bincount(data[i].label.ravel(), minlength=256)[: len(classes)] for i in range(len(data))], axis=0)
        for data in (train, val)
    )
    frequency, most = train_pixels / train_pixels.sum(), int(np.argmax(train_pixels))
    entropy = float(-(frequency[frequency > 0] * np.log(frequency[frequency > 0])).sum())
    miou = float(val_pixels[most] / val_pixels.sum() / (val_pixels > 0).sum())
    return {"entropy": entropy, "class": classes[most], "miou": miou}


def result_content(run: Path, scores: Path | None = None) -> dict[str, Any]:
    """Return the content of the result file.

    Args:
        run: the run directory.
        scores: an evaluation whose scores are kept instead of those of the training. None keeps the latter, with their curve.

    Raises:
        FileNotFoundError: The run has no ``result.json``.
    """
    environment, summary = run_environment(run), read_json((scores or run / "eval") / "summary.json")
    result = summarize(run)
    if scores:
        result = result | {key: summary[key] for key in ("miou", "macc", "aacc", "fwiou", "loss", "protocol_id") if key in summary}
        result |= {"last_miou": summary["miou"], "best_step": result["steps"]}
    baseline = majority_baseline(dataset_config(read_metadata(run), None))  # which resolves SEGZOO_DATA
    overrides = [word for word in environment["command"][1:] if not word.startswith(("out=", "resume="))]
    return {
        "command": " ".join(["python tools/train.py", *overrides]),
        "git": environment["git"],
        "machine": environment["machine"],
        "versions": environment["versions"],
        "protocol": summary["protocol"],
        "protocol_id": summary["protocol_id"],
        **({"scored_by": {key: run_environment(scores)[key] for key in ("git", "machine", "versions")}} if scores else {}),
        "checkpoint_sha256": summary["checkpoint_sha256"],
        "result": result,
        "baseline": baseline,
        "per_class": summary["per_class"],
        "curve": [] if scores else validation_curve(run),
        "train_loss": training_losses(run),
        "config": run_config(run),
    }


def main(args: argparse.Namespace) -> None:
    """Write the result file."""
    path = RESULTS / f"{args.name}.json"
    write_json(path, result_content(args.run, args.scores))
    print(path)
