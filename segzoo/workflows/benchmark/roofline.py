"""What the machine can do at most, measured in the same process as what it is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

TURNS, ENOUGH = 7, 2.0  # calls, and seconds after which no further one begins
MATRIX, BYTES = {"cpu": 2048, "cuda": 8192}, {"cpu": 2**28, "cuda": 2**30}


def roofline(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """The best of several square matrix products and of several copies.

    Args:
        device: where they run.
        dtype: number format of the product; where this processor is faster in fp32, that is what counts.

    Returns:
        ``tflops``: 10^12 floating-point operations a second (a multiply-add counts two); ``gb_per_s``: 10^9 bytes read and written.
    """
    side, size = MATRIX[device.type], BYTES[device.type]
    product = min(_best(partial(torch.mm, a, a), device) for a in _matrices(side, device, dtype))
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    copy = _best(lambda: target.copy_(source), device)
    return {"tflops": 2 * side**3 / product / 1e12, "gb_per_s": 2 * size / copy / 1e9}


def _matrices(side: int, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    a = torch.randn(side, side, device=device)
    return [a.to(kind) for kind in dict.fromkeys((dtype, torch.float32))]


def _best(call: Callable[[], object], device: torch.device) -> float:
    taken: list[float] = []
    while len(taken) < TURNS and sum(taken) < ENOUGH:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)
