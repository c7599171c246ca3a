"""What a trained start is worth with forty pictures: ``python -m benchmarks.transfer``, about 40 minutes on two cores.

Of CamVid's training drives 0006R0 and 0001TP (163 pictures) make the start; then forty pictures spread evenly over drive 0016E5 are
learnt from it and from scratch, five seeds each, and with label smoothing and with mixup, two seeds each. ICNet half, 300 steps of
eight 240x320 crops, scored on all validation pictures. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness.result_files import write_result

ROOT = Path(__file__).parents[2]
SHOTS = 40
COMMON = [
    "model=icnet_half",
    "data=camvid",
    "steps=300",
    "eval_every=300",
    "augment.crop=[240,320]",
    "val_pictures=0",
    "schedule.warmup=30",
]
VARIANTS: dict[str, tuple[list[str], int]] = {  # words beside the common ones, seeds
    "from scratch": ([], 5),
    "transferred": (["init.ckpt={start}"], 5),
    "transferred, label smoothing 0.1": (["init.ckpt={start}", "loss.label_smoothing=0.1"], 2),
    "transferred, mixup": (["init.ckpt={start}", "mix=mixup"], 2),
}


def lists(folder: Path, camvid: Path) -> dict[str, list[str]]:
    """Links CamVid into a folder with lists of its own; the words that make it the data set, for the start and for the forty."""
    names = sorted(path.stem for path in (camvid / "train").iterdir())
    drive = [name for name in names if name.startswith("0016E5")]
    chosen = {
        "start": [name for name in names if name.startswith(("0006R0", "0001TP"))],
        "few": [drive[number * len(drive) // SHOTS] for number in range(SHOTS)],
    }
    val = sorted(path.stem for path in (camvid / "val").iterdir())
    words = {}
    for kind, train in chosen.items():
        root = folder / kind
        root.mkdir()
        for part in ("train", "trainannot", "val", "valannot"):
            (root / part).symlink_to(camvid / part)
        (root / "train.txt").write_text("\n".join(train) + "\n")
        (root / "val.txt").write_text("\n".join(val) + "\n")
        words[kind] = [f"data.root={root}", f"data.title=camvid_{kind}", "data.lists='{split}.txt'"]
    return words


def train(out: Path, *words: str) -> float:
    """The validation mIoU of one training."""
    command = [sys.executable, "tools/train.py", *COMMON, *words, f"out={out}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "result.json").read_text())["miou"]


def main() -> None:
    camvid = Path(os.environ["SEGZOO_DATA"]) / "camvid"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = lists(folder, camvid)
        start = train(folder / "begin", *data["start"], "steps=1200", "eval_every=1200")
        rows.append({"variant": "the start alone, 163 pictures, 1200 steps", "seeds": 1, "miou": [start]})
        for variant, (words, seeds) in VARIANTS.items():
            own = [word.format(start=folder / "begin") for word in words]
            found = [train(folder / f"{len(rows)}-{seed}", *data["few"], *own, f"seed={seed}") for seed in range(seeds)]
            rows.append({"variant": variant, "seeds": seeds, "miou": found, "mean": statistics.fmean(found)})
            rows[-1]["spread"] = statistics.stdev(found) if seeds > 1 else None
            print(rows[-1], flush=True)
    print(write_result("transfer", "python -m benchmarks.transfer", rows))


if __name__ == "__main__":
    main()
