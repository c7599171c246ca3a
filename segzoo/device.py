"""Devices, number formats and memory statistics."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor, nn

from segzoo.registry import ConfigError, Range
from segzoo.resources import cpu_cores
from segzoo.types import DeviceName, PrecisionName

FloatFormat = Literal["fp32", "bf16", "fp16"]
ChannelsLast = Literal["auto"] | bool  # NHWC memory order
RuntimePrecision = Literal["fp32", "bf16", "fp16", "int8"]
Workers = Literal["auto"] | Annotated[int, Range(0, 1024)]  # data loading processes
WORKERS = 2  # by default
MAX_CONSTANTS = 64
_constants: dict[tuple[tuple[float, ...], torch.dtype, torch.device], Tensor] = {}
SHARED_CORES = 4  # a network on so few of them uses all, and loading processes would take them from it


def pick_device(name: DeviceName) -> torch.device:
    """Return the device of that name.

    ``auto`` means CUDA if it is available, else the CPU.

    Raises:
        ConfigError: ``cuda`` was requested but is not available, or the name is another one.
    """
    if name not in get_args(DeviceName):
        raise ConfigError(
            f"device={name!r}: expected one of {', '.join(get_args(DeviceName))}. The environment variable CUDA_VISIBLE_DEVICES chooses the GPU."
        )
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ConfigError(
            "device=cuda: CUDA is not available on this machine or in this build of torch. Set device=cpu or device=auto."
        )
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def place_on(model: nn.Module, device: torch.device) -> torch.device:
    """Move a model to a device.

    Returns:
        The device of its weights, which has the number of a GPU. Without one, ``cuda`` means another GPU in a thread of its own than in
        the main thread of a ``torchrun`` rank.
    """
    weight = next(model.to(device).parameters(), None)
    return device if weight is None else weight.device


def constant(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a tensor (len(values),) that must not be changed.

    It is made once for each device. A GPU would have to finish its work before each copy.
    """
    key = (tuple(values), dtype, device)
    if not torch.compiler.is_compiling() and (known := _constants.get(key)) is not None:
        return known
    with torch.inference_mode(False):  # else no gradient could be computed with it
        tensor = torch.tensor(values, dtype=dtype, device=device)
    if type(tensor) is Tensor and not torch.compiler.is_compiling():  # one of a traced graph is none of this process
        if len(_constants) >= MAX_CONSTANTS:
            _constants.clear()
        _constants[key] = tensor
    return tensor


def pick_precision(name: PrecisionName, device: torch.device) -> FloatFormat:
    """Return the number format of that name.

    ``auto`` means bf16 if the hardware multiplies matrices in bf16, else fp32. Of CPUs, those with AMX or AVX512_BF16 do.

    Raises:
        ConfigError: the name is another one.
    """
    if name not in get_args(PrecisionName):
        raise ConfigError(f"precision={name!r}: expected one of {', '.join(get_args(PrecisionName))}")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "fp32"


def pick_workers(workers: Workers, device: torch.device | None) -> int:
    """Return the number of data loading processes.

    ``auto`` means 2, but 0 if the network runs on a CPU with at most 4 cores.

    Args:
        workers: the setting.
        device: device of the network, None if none runs.
    """
    if workers != "auto":
        return workers
    return 0 if device is not None and device.type == "cpu" and cpu_cores() <= SHARED_CORES else WORKERS


def configure_allocator(*, reuse_memory: bool = True) -> None:
    """Set the memory allocator of a training on a CPU.

    A training step frees and allocates hundreds of large feature maps. By default each one is returned to the system and mapped
    again page by page. Huge pages make that cheaper. Call this before the first large tensor is allocated. Memory is kept by glibc's
    allocator only.

    Args:
        reuse_memory: keep freed memory for the next tensors instead of returning it to the system. Steps are faster. The peak is higher,
            because the kept blocks fit the next tensors only in part.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # makes torch request huge pages
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if reuse_memory and mallopt is not None:
        mmap_max, trim_threshold = -4, -1
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


def gpu_names(count: int) -> list[str]:
    """Names of the first GPUs that are the same in every process.

    Where a GPU has no UUID, its index is its name, which CUDA_VISIBLE_DEVICES changes.
    """
    properties = [torch.cuda.get_device_properties(index) for index in range(count)]
    return [str(getattr(each, "uuid", index)) for index, each in enumerate(properties)]


def peak_memory(device: torch.device) -> float:
    """Peak memory in bytes since the last ``reset_peak_memory``.

    On CUDA this is the memory allocated by torch, otherwise the resident memory of the process. Without a reset it counts from the
    start of the process.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")  # unlike getrusage, excludes the parent process
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def reset_peak_memory(device: torch.device) -> None:
    """Reset ``peak_memory`` to the current usage, where the system supports it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


class Precision:
    """Number format of the layers, with autocast and gradient scaler.

    On CUDA it turns TF32 off in this process, in which torch computes convolutions by default. Below fp32, that concerns the layers that
    stay fp32.

    Args:
        name: number format, or ``auto``. Below fp32, autocast uses it where that is safe, while weights and classifiers stay fp32.
        device: the model's device.

    Attributes:
        name: the number format, never ``auto``.
        device: the model's device.
        scaler: gradient scaler, active in fp16 only.
    """

    def __init__(self, name: PrecisionName, device: torch.device):
        self.name: FloatFormat = pick_precision(name, device)
        self.device = device
        if self.uses_cuda:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.name == "fp16")  # type: ignore[attr-defined]

    @property
    def uses_cuda(self) -> bool:
        """True if the model is on a GPU."""
        return self.device.type == "cuda"

    def __str__(self) -> str:
        return f"{self.device.type} in {self.name}"

    def picks_channels_last(self, setting: ChannelsLast) -> bool:
        """Return whether activations of a training are kept in NHWC order.

        ``auto`` means yes, except in fp32 on a CPU with AVX2 and no AVX-512: weight gradients of NHWC convolutions take about three times as
        long there as those of NCHW ones.
        """
        if setting != "auto":
            return setting
        return self.device.type != "cpu" or self.name != "fp32" or torch.backends.cpu.get_cpu_capability() != "AVX2"

    def place(self, model: nn.Module, *, channels_last: ChannelsLast) -> nn.Module:
        """Move a model to the device, optionally in NHWC memory order."""
        memory_format = torch.channels_last if self.picks_channels_last(channels_last) else torch.preserve_format
        return model.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]

    def autocast(self) -> AbstractContextManager:
        """Context manager for a forward pass. Losses stay outside it, in fp32."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.name != "fp32")
