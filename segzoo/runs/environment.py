"""Record the environment of a run: versions, machine, commit and command."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Literal

from segzoo.types import PlainDict

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
CODE, RESULTS = ("segzoo", "conf", "tools", "benchmarks"), ":!benchmarks/results"  # pathspecs of git
UNUSABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)  # errors of a missing, damaged or foreign env.json
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")


def describe_environment(gpu: bool = True) -> PlainDict:
    """Describe everything that affects a run's speed and exact results.

    Args:
        gpu: the run may use a GPU. Only then is CUDA asked for its name, which occupies memory there.

    Returns:
        Plain JSON-able containers, without user and host names.
    """
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "versions": {"python": platform.python_version()} | versions(),
        "machine": machine(gpu),
        "git": git_commit(),
    }


def torchrun_hashes() -> dict[str, str] | None:
    """Identify the torchrun that started this process, if any.

    Returns:
        ``run``: a hash of its run id, which the agents of all machines share, but also later ones if the id is not unique. ``agent``: a hash
        of the run id, machine and process of the agent. Both stay the same when torchrun restarts a training.
    """
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if run_id is None:
        return None
    texts = {"run": run_id, "agent": f"{run_id} {platform.node()} {os.getppid()}"}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:12] for name, text in texts.items()}


def is_restart_of(folder: Path, same: Literal["run", "agent"]) -> bool:
    """True if torchrun restarts what it has started in a folder.

    Args:
        folder: a directory with ``env.json``.
        same: what has to be the same, see ``torchrun_hashes``.
    """
    own = torchrun_hashes()
    if own is None or not is_torchrun_restart():
        return False
    with suppress(*UNUSABLE):
        return _recorded(folder)["torchrun"][same] == own[same]
    return False


def is_torchrun_restart() -> bool:
    """True if torchrun has started this process again after a failure."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def recorded_version(folder: Path) -> str | None:
    """Version of segzoo in ``env.json``, without its last number, if known."""
    with suppress(*UNUSABLE):
        return _recorded(folder)["versions"]["segzoo"].rpartition(".")[0]
    return None


def recorded_command(folder: Path) -> str | None:
    """Command line in ``env.json``, quoted for the shell, if known."""
    with suppress(*UNUSABLE):
        command = _recorded(folder)["command"]
        return shlex.join(["python", *command] if command[0].endswith(".py") else command)
    return None


def _recorded(folder: Path) -> PlainDict:
    return json.loads((folder / "env.json").read_text(encoding="utf-8"))


def versions(*more: str) -> dict[str, str | None]:
    """Installed versions of the main packages and of those in ``more``.

    The version is None if a package is not installed.
    """
    installed: dict[str, str | None] = {}
    for name in (*PACKAGES, *more):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = None
    return installed


def machine(gpu: bool = True) -> PlainDict:
    """Describe the processor, and the threads and GPU that torch uses.

    Threads and GPU are left out if this process has not imported torch, which takes seconds. Without ``gpu``, no GPU is used.
    """
    cpuinfo = dict(_cpuinfo())
    facts = {
        "platform": platform.platform(),
        "cpu": cpuinfo.get("model name") or platform.processor(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in cpuinfo.get("flags", "").split()],
        "cores": os.cpu_count(),
    }
    return facts | _torch_facts(gpu) if "torch" in sys.modules else facts


def _torch_facts(gpu: bool) -> PlainDict:
    import torch

    cuda = gpu and torch.cuda.is_available()
    return {
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
    }


def clocks_mhz() -> dict[str, float | None]:
    """Current clock rates of CPU and GPU in MHz.

    The CPU rate is the mean over cores. A value is None if the system does not report it.
    """
    import torch

    cores = [float(value) for key, value in _cpuinfo() if key == "cpu MHz"]
    gpu = None
    if torch.cuda.is_available():
        with suppress(ImportError, RuntimeError):  # NVIDIA's management library is not installed
            gpu = float(torch.cuda.clock_rate())
    return {"cpu": sum(cores) / len(cores) if cores else None, "gpu": gpu}


def git_commit() -> PlainDict | None:
    """Commit of the checkout this code runs from, or None outside one.

    ``changed`` tells whether there are uncommitted changes, benchmark results excepted. Untracked files count among the code alone, since
    outputs lie anywhere.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", RESULTS)
    return {
        "commit": commit,
        "changed": bool(changes or _git(root, "ls-files", "--others", "--exclude-standard", "--", *CODE, RESULTS)),
    }


def _cpuinfo() -> list[tuple[str, str]]:
    """Key-value pairs of ``/proc/cpuinfo``, core by core, if it exists."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]


def _git(root: Path, *arguments: str) -> str | None:
    try:
        completed = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip()
