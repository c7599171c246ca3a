"""Pruning to a target of time: ``python -m benchmarks.aim <run of camvid_full> <folder>``, half an hour on a quiet machine.

In each runtime the network is timed, ``tools/prune.py`` is told to reach 60 % of that, and both networks are then timed in turns from
bytes to labels. On a machine whose speed changes by the minute the search finds another time for the unpruned network than the wish was
made from: ``wanted`` is the target as a share of the search's own, which the ratio in turns is to be held against. ``<folder>`` takes
the runs. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.pruning import COMMON, ROOT, SIZE
from benchmarks.harness.interleaved_timing import compared, in_turns
from benchmarks.harness.result_files import write_result
from segzoo.measured import labeller
from segzoo.pruned import timed_rows
from segzoo.subject import bench_pictures, subject

SHARE, STEPS = 0.6, 60
RUNTIMES = ("openvino", "eager")


def labelling(ckpt: Path, runtime: str) -> Any:
    """What labels one picture with a checkpoint in bf16."""
    chosen = subject({}, ckpt=str(ckpt))
    return labeller(chosen.model, chosen.card, runtime, "bf16", bench_pictures(chosen.data, 1, hw=SIZE), torch.device("cpu"))


def search(start: Path, out: Path, runtime: str) -> None:
    """Prunes a run to its share of the time."""
    before = timed_rows({"before": str(start)}, timed=(runtime,), timed_hw=SIZE)["before"][0]["ms_per_image"]["p50"]
    words = [f"ckpt={start}", "pruner=l1", f"pruner.runtime={runtime}", f"pruner.hw=[{SIZE[0]},{SIZE[1]}]", *COMMON[:2]]
    words += ["curves=false", "timed=[]", f"steps={STEPS}", "schedule.warmup=5", f"pruner.target_ms={SHARE * before:.4g}"]
    subprocess.run([sys.executable, "tools/prune.py", *words, f"out={out}"], cwd=ROOT, check=True)


def aimed(start: Path, out: Path, runtime: str) -> dict[str, Any]:
    """Prunes a run to its share of the time unless that is done, and what that came to."""
    if not (out / "report.md").exists():  # what a finished run has and one that failed has not
        search(start, out, runtime)
    aim = json.loads((out / "aim.json").read_text(encoding="utf-8"))
    found = {key: aim[key] for key in ("share", "target", "tried")}
    ratio = compared(in_turns({"ours": labelling(out, runtime), "peer": labelling(start, runtime)}, seconds=30, least=20, warm=3))
    ratio = {"after_ms": ratio.pop("ours_ms"), "before_ms": ratio.pop("peer_ms")} | ratio
    last = json.loads((out / "result.json").read_text(encoding="utf-8"))["report"][-1]
    found["wanted"] = found["target"]["value"] / found["tried"][-1]["ms"]
    sizes = {key: last[key] for key in ("params", "gmacs", "miou")}
    return {"runtime": runtime, "precision": "bf16", "hw": list(SIZE), "steps": STEPS} | found | ratio | sizes


def main(start: Path, folder: Path) -> Path:
    rows = [aimed(start, folder / runtime, runtime) for runtime in RUNTIMES]
    return write_result("pruning_aim", "python -m benchmarks.aim runs/full runs/aim", rows, packages=("openvino",))


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2])))
