"""Training throughput with one process and with several.

With CUDA: one process per GPU, with SyncBN and with per-process batch norm. Without: gloo on the CPU, where the processes share the cores
and the total batch stays the same, so the numbers show the cost of exchanging gradients and not the gain from more hardware.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.result_files import ROOT, write_result

STEPS = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the available devices decide what is measured."""


def images_per_s(processes: int, overrides: list[str]) -> float:
    """Return the median throughput of a training, in images per second.

    The lowest value in its log is left out: the first steps are slower than the others.
    """
    with tempfile.TemporaryDirectory() as folder:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(torchrun if processes > 1 else []), "tools/train.py"]
        common = [f"steps={STEPS}", f"eval_every={STEPS}", "log_every=4", "num_val_images=0", "data.val_images=2"]
        threads = {"OMP_NUM_THREADS": str(os.cpu_count())} if processes == 1 else {}
        command += [*common, f"out={folder}/run", *overrides]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=os.environ | threads)
        rows = [json.loads(line) for line in (Path(folder) / "run/metrics.jsonl").read_text().splitlines()]
        values = sorted(row["images_per_s"] for row in rows if row["split"] == "time")[1:]
        return values[len(values) // 2]


def main(args: argparse.Namespace) -> None:
    """Measure every number of processes that the machine allows."""
    gpus = torch.cuda.device_count()
    device, counts = ("cuda", range(1, gpus + 1)) if gpus > 1 else ("cpu", (1, 2))
    rows: list[dict[str, Any]] = []
    for count in counts:
        batch = 8 if device == "cuda" else 8 // count  # on a CPU the total batch stays the same
        for sync_bn in (True, False) if device == "cuda" and count > 1 else (False,):
            overrides = ["model=icnet_half", "data=parts", f"device={device}", f"batch_size={batch}"]
            overrides.append(f"sync_bn={str(sync_bn).lower()}")
            row = {"device": device, "ranks": count, "batch_per_rank": batch, "norm": "SyncBN" if sync_bn else "per process"}
            rows.append(row | {"images_per_s": images_per_s(count, overrides)})
            print(rows[-1], flush=True)
    print(write_result("ranks", args.command, rows))
