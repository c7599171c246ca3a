"""Images a second of one training on one and on several processes: ``python -m benchmarks.ranks``.

With CUDA: one process a GPU, with joint and with plain batch norm. Without: gloo on the CPU, where the processes share the cores, so that
the table shows what the exchange of gradients costs rather than what more machines bring; it says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.result_files import write_result

ROOT = Path(__file__).parents[2]
STEPS = 24


def images_per_s(ranks: int, words: list[str]) -> float:
    """The median over the rows of the log, the first ones left out."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "tools/train.py"]
        command = [sys.executable, "tools/train.py"] if ranks == 1 else command
        common = [
            f"steps={STEPS}",
            f"eval_every={STEPS}",
            "log_every=4",
            "val_pictures=0",
            "data.val_images=2",
            f"out={folder}/run",
        ]
        threads = {"OMP_NUM_THREADS": str(os.cpu_count())} if ranks == 1 else {}
        subprocess.run([*command, *common, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=os.environ | threads)
        rows = [json.loads(line) for line in (Path(folder) / "run/metrics.jsonl").read_text().splitlines()]
        found = sorted(row["images_per_s"] for row in rows if row["split"] == "time")[1:]
        return found[len(found) // 2]


def main() -> None:
    cuda = torch.cuda.device_count()
    device, sizes = ("cuda", range(1, cuda + 1)) if cuda > 1 else ("cpu", (1, 2))
    rows: list[dict[str, Any]] = []
    for ranks in sizes:
        batch = 8 if device == "cuda" else 8 // ranks  # on a CPU the joint batch stays the same
        for joint in (True, False) if device == "cuda" and ranks > 1 else (False,):
            words = [
                "model=icnet_half",
                "data=parts",
                f"device={device}",
                f"batch_size={batch}",
                f"joint_norm={str(joint).lower()}",
            ]
            rows.append({"device": device, "ranks": ranks, "batch_a_rank": batch, "images_per_s": images_per_s(ranks, words)})
            rows[-1]["norm"] = "joint" if joint else "of each rank"
            print(rows[-1], flush=True)
    print(write_result("ranks", "python -m benchmarks.ranks", rows))


if __name__ == "__main__":
    main()
