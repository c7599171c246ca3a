"""PSPNet and LargeFOV on ResNet-50 pruned to half their channels at once: ``python -m benchmarks.pruning_others <folder> <run> <run>``.

Each trained network gets 200 further steps of eight 180x240 crops. ``<folder>`` takes the runs; what is finished there is not run again.
Scored on all validation pictures, timed at their size once all are trained. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.accuracy.pruning import ROOT, times_of
from benchmarks.harness.result_files import write_result

SIZE = (360, 480)
WORDS = ["pruner=l1", "pruner.keep=0.5", "steps=200", "augment.crop=[180,240]", "schedule.warmup=10"]
REPORT = ["eval_every=100", "val_pictures=0", "curves=false", "timed=[]", f"timed_hw=[{SIZE[0]},{SIZE[1]}]"]


def pruned(start: Path, out: Path) -> dict[str, Any]:
    """Prunes a run and trains on, unless that is done; the stages it went through."""
    words = [f"ckpt={start}", *WORDS, *REPORT, f"out={out}", "resume=auto"]
    subprocess.run([sys.executable, "tools/prune.py", *words], cwd=ROOT, check=True)
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    environment = json.loads((out / "env.json").read_text(encoding="utf-8"))
    return {key: result[key] for key in ("report", "steps", "best_step")} | {"git": environment["git"]}


def main(folder: Path, starts: list[Path]) -> Path:
    found = {start.name: pruned(start, folder / start.name) for start in starts}
    for start in starts:
        found[start.name]["times"] = times_of({"before": start, "after": folder / start.name}, SIZE)
    return write_result("pruning_others", "python -m benchmarks.pruning_others runs/pruned runs/pspnet runs/largefov", found)


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), [Path(run) for run in sys.argv[2:]]))
