"""How long a network takes for an image, from one well-defined point to another, and whether its labels are still the right ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from segzoo.device import RuntimePrecision, peak_memory, reset_peak_memory
from segzoo.registry import Range
from segzoo.workflows.benchmark.roofline import roofline
from segzoo.workflows.benchmark.timing import measure

Side = Annotated[int, Range(33, 8192)]
Scope = Literal["net", "net+labels", "end_to_end"]
Call = Callable[[Tensor], Tensor]
MIN_PEAK_FRACTION = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.bfloat16}


def benchmark(
    call: Call,
    label: Callable[[Tensor], Tensor],
    pictures: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    device: torch.device,
    gmacs: float,
    *,
    batch: Annotated[int, Range(1, None)] = 1,
    scope: Scope = "net+labels",
    precision: RuntimePrecision = "fp32",
    max_seconds: Annotated[float, Range(0, None, above=True)] = 20.0,
    ci_half_width: Annotated[float, Range(0, 1, above=True)] = 0.03,
) -> dict[str, Any]:
    """Times a network and compares its labels with those of the same network in eager fp32.

    Args:
        call: (N, H, W, 3) uint8 -> logits (N, K, h, w).
        label: those logits -> labels (N, H, W).
        images: (H, W, 3) uint8 RGB, all of one size; the batch repeats them in order.
        truth: the labels of each, by eager fp32.
        device: where the network runs.
        gmacs: 10^9 multiply-adds that it does for one image.
        batch: images a call.
        scope: what is timed. ``net``: bytes on the device to scores at the network's stride; ``net+labels``: to a label a pixel, still
            on the device; ``end_to_end``: from encoded PNG files in memory to label maps in host memory.
        precision: whose peak the speed is compared with.
        seconds: longest time for the counted calls.
        interval: half the width wanted of the median's 95 % interval, as a share of the median.

    Returns:
        ``ms_per_image``, ``ms_per_batch`` (p50, p90, p99), ``images_per_s``, ``first_call_ms``, ``calls``, ``peak_memory_mb`` (10^6
        bytes that torch held on CUDA, elsewhere the whole process), ``agreement``, ``peak`` of the machine, ``share_of_peak`` and
        ``warnings``.
    """
    reset_peak_memory(device)
    once = _scoped(call, label, [pictures[i % len(pictures)] for i in range(batch)], device, scope)
    start = time.perf_counter()
    once()
    if device.type == "cuda":
        torch.cuda.synchronize()
    first = time.perf_counter() - start
    times = measure(once, device, max_seconds=max_seconds, ci_half_width=ci_half_width)
    memory = peak_memory(device)  # before anything else that is measured here
    peak = roofline(device, MIN_PEAK_FRACTION[precision])
    middle = times.percentiles()["p50"] / 1000
    return {
        "ms_per_image": times.percentiles(batch),
        "ms_per_batch": times.percentiles(),
        "images_per_s": batch / middle,
        "first_call_ms": 1000 * first,
        "calls": {"counted": len(times.seconds), "warmup": times.warmup},
        "agreement": _agreement(call, label, pictures, truth, device, batch),
        "peak_memory_mb": memory / 1e6,
        "peak": peak,
        "share_of_peak": 2 * gmacs * batch / 1000 / middle / peak["tflops"],
        "warnings": times.warnings(ci_half_width) + _single_label_warning(truth),
    }


def _scoped(
    call: Call, label: Callable[[Tensor], Tensor], images: Sequence[np.ndarray], device: torch.device, scope: Scope
) -> Callable[[], object]:
    if scope == "end_to_end":
        import cv2

        files = [cv2.imencode(".png", image[:, :, ::-1])[1] for image in images]

        def whole() -> np.ndarray:
            decoded = [cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB) for file in files]  # type: ignore[arg-type]
            return label(call(torch.from_numpy(np.stack(decoded)).to(device))).cpu().numpy()

        return whole
    ready = torch.from_numpy(np.stack(images)).to(device)
    return (lambda: call(ready)) if scope == "net" else (lambda: label(call(ready)))


def _single_label_warning(truth: Sequence[np.ndarray]) -> list[str]:
    """A warning where every runtime would agree that gives one label everywhere."""
    seen = np.unique(np.concatenate([labels.ravel() for labels in truth]))
    return [f"eager fp32 labels every pixel as class {seen[0]}: agreement says nothing"] if len(seen) == 1 else []


def _agreement(
    call: Call,
    label: Callable[[Tensor], Tensor],
    pictures: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    device: torch.device,
    batch: int,
) -> float:
    """The share of pixels whose label is that of eager fp32, over as many batches as there are images and all places in them."""
    equal, count = [], len(truth)
    for first in range(count):
        places = [(first + i) % count for i in range(batch)]
        found = label(call(torch.from_numpy(np.stack([pictures[place] for place in places])).to(device))).cpu().numpy()
        equal += [float((ours == truth[place]).mean()) for ours, place in zip(found, places, strict=True)]
    return sum(equal) / len(equal)
