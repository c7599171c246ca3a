"""Where and how precisely the arithmetic runs: device, autocast, and images made ready for a network."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal

import torch

from segzoo.registry import ConfigError

DeviceName = Literal["auto", "cpu", "cuda"]


PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA where there is a usable one, else the CPU.

    Raises:
        ConfigError: ``cuda`` was asked for and this machine has none.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ConfigError("device=cuda: this machine or this build of torch has no CUDA. Say device=cpu or device=auto.")
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def pick_precision(name: PrecisionName, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """The number format of that name; ``auto`` is bf16 where the hardware multiplies in it, else fp32."""
    if name != "auto":
        return name
    able = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
    return "bf16" if able else "fp32"


def enable_memory_reuse() -> None:
    """Lets this process keep freed memory instead of giving it back to the system, on glibc; elsewhere it does nothing.

    A training step frees and takes hundreds of large maps. By default each goes back to the system and comes again page by page,
    which costs a tenth of a step on a CPU. Must be called before the first large tensor is made to have its full effect.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for huge pages
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mmap_max, trim_threshold = -4, -1
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


def peak_memory(device: torch.device) -> float:
    """The most memory held since this process began, or since ``forget_peak``, in bytes: on CUDA by torch, else by the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")  # unlike getrusage, it knows nothing of the process that started this one
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def reset_peak_memory(device: torch.device) -> None:
    """Lets ``peak_memory`` begin again at what is held now, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


class Precision:
    """The number format of the layers, and the gradient scaler fp16 needs (a no-op in the others).

    Args:
        wanted: ``fp32``, the format autocast uses where it is safe (weights and classifiers stay fp32), or ``auto``.
        device: where the model runs.
    """

    def __init__(self, wanted: PrecisionName, device: torch.device):
        self.name = name = pick_precision(wanted, device)
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")  # type: ignore[attr-defined]

    def __str__(self) -> str:
        return f"{self.device.type} in {self.name}"

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass; losses stay outside it, in fp32."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.name != "fp32")
