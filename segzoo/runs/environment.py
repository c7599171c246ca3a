"""On what a run ran: versions, machine, threads, the code's commit and the command line."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "segzoo",
    "torch",
    "torchvision",
    "numpy",
    "albumentations",
    "opencv-python-headless",
    "pillow",
    "safetensors",
    "hydra-core",
)
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")


def describe_environment() -> dict[str, Any]:
    """What decides speed and bits of a run, as plain JSON-able containers; names no user and no host."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "versions": {"python": platform.python_version()} | versions(),
        "machine": machine(),
        "git": git_commit(),
    }


def versions(*more: str) -> dict[str, str | None]:
    """The installed version of every package that matters, and of others named; None where one is not installed."""
    found: dict[str, str | None] = {}
    for name in (*PACKAGES, *more):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """Processor, its matrix instructions, threads and GPU."""
    facts = dict(_cpuinfo())
    cuda = torch.cuda.is_available()
    return {
        "platform": platform.platform(),
        "cpu": facts.get("model name") or platform.processor(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in facts.get("flags", "").split()],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
    }


def clocks_mhz() -> dict[str, float | None]:
    """What the processor's cores and the GPU run at just now, in MHz, the cores' mean; None where the system does not tell."""
    cores = [float(value) for key, value in _cpuinfo() if key == "cpu MHz"]
    gpu = None
    if torch.cuda.is_available():
        with suppress(ImportError, RuntimeError):  # without NVIDIA's management library
            gpu = float(torch.cuda.clock_rate())
    return {"cpu": sum(cores) / len(cores) if cores else None, "gpu": gpu}


def git_commit() -> dict[str, Any] | None:
    """Commit of the checkout this code runs from and whether it was changed since, results aside; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return None
    return {"commit": commit, "changed": bool(_git(root, "status", "--porcelain", "--", ".", ":!benchmarks/results"))}


def _cpuinfo() -> list[tuple[str, str]]:
    """What Linux tells of each core, key by key; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
