"""Pruning ICNet to half its channels on CamVid, in every way: ``python -m benchmarks.pruning <run of camvid_full> <folder>``, 2 hours.

From one network of full width, 600 further steps of eight 240x320 crops for each variant; beside them half width from scratch with as
many steps as both together. Scored on all validation pictures; differences are of pairs on the same pictures. ``<folder>`` takes the runs:
what is finished there is not run again, so that the whole may be had in parts, and variants may be named after it. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.result_files import write_result
from segzoo.engine.intervals import miou_difference
from segzoo.pruned import timed_rows, tuned_row

ROOT = Path(__file__).parents[2]
STEPS, SIZE = 600, (1024, 2048)
COMMON = ["augment.crop=[240,320]", "val_pictures=0", "optim.lr=0.001", "schedule.warmup=30"]
TAUGHT = ["distill=teacher", "distill.layers=[conv5_4]"]
HALF, STAGED = ["pruner.keep=0.5"], ["pruner.steps=[0.75,0.5]"]
VARIANTS: dict[str, tuple[list[str], int]] = {  # words of tools/prune.py, seeds
    "l1": (["pruner=l1", *HALF], 3),
    "random": (["pruner=random", *HALF], 3),
    "scratch": ([], 3),
    "l1 staged": (["pruner=l1", *STAGED], 1),
    "l1 taught": (["pruner=l1", *HALF, *TAUGHT], 1),
    "l1 staged taught": (["pruner=l1", *STAGED, *TAUGHT], 1),
}


def command(name: str, words: list[str], seed: int, start: Path, out: Path) -> list[str]:
    """The command that makes a run; one that is finished already does nothing."""
    common = [*COMMON, f"seed={seed}", f"out={out}", "resume=auto"]
    if name == "scratch":
        steps = json.loads((start / "result.json").read_text(encoding="utf-8"))["steps"] + STEPS
        rates = ["optim.lr=0.002", "schedule.warmup=100"]
        given = ["tools/train.py", "model=icnet_half", "data=camvid", *common, *rates, f"steps={steps}", "eval_every=300"]
        return [sys.executable, *given]
    lot = [f"pruner.seed={seed}"] if name == "random" else []
    report = ["curves=false", "timed=[]"]
    return [sys.executable, "tools/prune.py", f"ckpt={start}", *words, *lot, *common, *report, f"steps={STEPS}", "eval_every=200"]


def row(name: str, seed: int, run: Path, others: dict[str, Path]) -> dict[str, Any]:
    """What a run came to, and how far it is from others, picture by picture."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    environment = json.loads((run / "env.json").read_text(encoding="utf-8"))
    before = next((stage for stage in result.get("report", []) if stage["what"] == "pruned"), None)
    found = tuned_row(run, timed_hw=SIZE) | {"what": name, "seed": seed}
    found |= {"steps": result["steps"], "best_step": result["best_step"], "miou_pruned": before and before["miou"]}
    found["against"] = {
        other: miou_difference(*(np.load(place / "eval" / "pictures.npy") for place in (run, path)))
        for other, path in others.items()
        if path != run and (path / "eval" / "pictures.npy").exists()
    }
    return found | {"git": environment["git"]}


def times_of(runs: dict[str, Path], hw: tuple[int, int]) -> dict[str, list[dict[str, Any]]]:
    """What one picture takes in each runtime, by the names of the runs; what the result file tells once is left out."""
    told = ("machine", "versions", "git", "weights", "settings")
    times = timed_rows({name: str(run) for name, run in runs.items()}, timed_hw=hw)
    return {name: [{key: row[key] for key in row if key not in told} for row in rows] for name, rows in times.items()}


def main(start: Path, folder: Path, wanted: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    for name, (words, seeds) in VARIANTS.items():
        for seed in range(seeds):
            out = folder / f"{name.replace(' ', '_')}_{seed}"
            if not wanted or name in wanted or (out / "result.json").exists():
                subprocess.run(command(name, words, seed, start, out), cwd=ROOT, check=True)
                others = {"before": start, "l1": folder / f"l1_{seed}", "scratch": folder / f"scratch_{seed}"}
                rows.append(row(name, seed, out, others))
    full = tuned_row(start, timed_hw=SIZE) | {"what": "full width", "seed": 0, "against": {}}
    times = times_of({"full": start, "half": folder / "l1_0"}, SIZE)
    print(
        write_result(
            "pruning_camvid", "python -m benchmarks.pruning runs/full runs/pruning", {"rows": [full, *rows], "times": times}
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
