"""Keeps a training as a result file: ``python -m benchmarks.keep_run runs/train/... camvid_icnet_half``.

What stays is the command, the settings, the curve over the validation set and the score; data is named, never a path. A run that was
stopped before its last step is kept with its best checkpoint, and says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.harness.result_files import RESULTS
from segzoo.config import build_data
from segzoo.engine.checkpoint import read_trainer
from segzoo.report import write_json
from segzoo.zoo import load

ROOT = Path(__file__).parents[2]


def curve(run: Path) -> list[dict[str, Any]]:
    """Validation scores over the run: step, epoch, minutes, mIoU, pixel accuracy and loss."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    names = ("minutes", "mIoU", "mAcc", "aAcc", "loss")
    return [{"step": r["step"], "epoch": r["epoch"]} | {n: r.get(n) for n in names} for r in rows if r["split"] == "val"]


def losses(run: Path, points: int = 40) -> list[dict[str, Any]]:
    """The training loss, thinned to about ``points`` rows; the last one is kept."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [{"step": r["step"], "loss": r["loss"]} for r in rows if r["split"] == "train"]
    return [*rows[:: max(1, len(rows) // points)], *rows[-1:]]


def outcome(run: Path) -> dict[str, Any]:
    """``result.json`` of a finished run; the same fields for one that was stopped."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    if result.get("finished"):
        return result
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    scores = [row for row in rows if row["split"] == "val"]
    best, step = max(scores, key=lambda row: row["mIoU"]), int((run / "checkpoints" / "last").read_text())
    minutes = read_trainer(run / "checkpoints" / str(step))["seconds"] / 60
    ours = {"finished": False, "miou": best["mIoU"], "best_step": best["step"], "last_miou": scores[-1]["mIoU"]}
    params = sum(parameter.numel() for parameter in load(run).parameters())
    return ours | {"steps": step, "train_minutes": round(minutes, 2), "params": params}


def knowing_nothing(section: dict[str, Any]) -> dict[str, Any]:
    """What one gets without looking at a picture: the entropy of the training labels in nats, and the mIoU of the class most frequent there."""
    train, val = (build_data(section, split) for split in ("train", "val"))
    classes = train.card.classes
    trained, scored = (
        np.sum([np.bincount(data[i].label.ravel(), minlength=256)[: len(classes)] for i in range(len(data))], axis=0)
        for data in (train, val)
    )
    share, most = trained / trained.sum(), int(np.argmax(trained))
    entropy = float(-(share[share > 0] * np.log(share[share > 0])).sum())
    return {"entropy": entropy, "class": classes[most], "miou": float(scored[most] / scored.sum() / (scored > 0).sum())}


def keep(run: Path, name: str) -> Path:
    """Writes ``results/<name>.json`` from a run folder. Raises FileNotFoundError if the run never ended."""
    result = outcome(run)
    environment = json.loads((run / "env.json").read_text(encoding="utf-8"))
    summary = json.loads((run / "eval" / "summary.json").read_text(encoding="utf-8"))
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    baseline = knowing_nothing(config["data"])
    config["data"].pop("root", None)
    for word in ("out", "resume"):
        config.pop(word, None)
    words = [word for word in environment["command"][1:] if not word.startswith(("out=", "resume="))]
    content = {
        "command": " ".join(["python tools/train.py", *words]),
        "git": environment["git"],
        "machine": environment["machine"],
        "versions": environment["versions"],
        "protocol": summary["protocol"],
        "protocol_id": summary["protocol_id"],
        "checkpoint_sha256": summary["checkpoint_sha256"],
        "result": result,
        "baseline": baseline,
        "per_class": summary["per_class"],
        "curve": curve(run),
        "train_loss": losses(run),
        "config": config,
    }
    write_json(RESULTS / f"{name}.json", content)
    return RESULTS / f"{name}.json"


if __name__ == "__main__":
    print(keep(Path(sys.argv[1]), sys.argv[2]))
