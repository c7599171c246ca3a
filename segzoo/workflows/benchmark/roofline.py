"""Peak throughput of the machine.

It is measured in the same process as the network it is compared with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

MAX_CALLS, MAX_SECONDS = 7, 2.0  # no further call starts after either limit
MATRIX_SIZE, COPY_BYTES = {"cpu": 2048, "cuda": 8192}, {"cpu": 2**28, "cuda": 2**30}


def roofline(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Measure peak compute throughput and memory bandwidth.

    Each is the best of several runs, of a square matrix product and of a copy.

    Args:
        device: device to measure.
        dtype: data type of the product. If this processor is faster in fp32, the fp32 result counts.

    Returns:
        ``tflops``, 10^12 floating-point operations per second (two per multiply-add), and ``gb_per_s``, 10^9 bytes read and written per
        second.
    """
    side, size = MATRIX_SIZE[device.type], COPY_BYTES[device.type]
    product = min(_best(partial(torch.mm, a, a), device) for a in _matrices(side, device, dtype))
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    copy = _best(lambda: target.copy_(source), device)
    return {"tflops": 2 * side**3 / product / 1e12, "gb_per_s": 2 * size / copy / 1e9}


def _matrices(side: int, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    """Create a random square matrix in ``dtype`` and in fp32."""
    a = torch.randn(side, side, device=device)
    return [a.to(each) for each in dict.fromkeys((dtype, torch.float32))]


def _best(call: Callable[[], object], device: torch.device) -> float:
    """Return the fastest of several calls, in seconds."""
    seconds: list[float] = []
    while len(seconds) < MAX_CALLS and sum(seconds) < MAX_SECONDS:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
