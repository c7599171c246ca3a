"""Latency measurement of a network, with a check of its labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from segzoo.device import RuntimePrecision, peak_memory, reset_peak_memory
from segzoo.image_decoder import decode_rgb
from segzoo.registry import ConfigError, Range
from segzoo.runtimes._base import InferenceFn
from segzoo.types import PlainDict
from segzoo.workflows.benchmark.roofline import roofline
from segzoo.workflows.benchmark.timing import measure

Scope = Literal["net", "net+labels", "end_to_end"]
LabelsFn = Callable[[Tensor], Tensor]  # logits (N, K, h, w) -> labels (N, H, W)
PEAK_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.bfloat16}


def benchmark(
    infer: InferenceFn,
    to_labels: LabelsFn,
    images: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    device: torch.device,
    gmacs: float | None,
    *,
    batch: Annotated[int, Range(1, 65536)] = 1,
    scope: Scope = "net+labels",
    precision: RuntimePrecision = "fp32",
    max_seconds: Annotated[float, Range(0, 86400, above=True)] = 20.0,
    ci_half_width: Annotated[float, Range(0, 1, above=True)] = 0.03,
) -> PlainDict:
    """Time a network and compare its labels with eager fp32.

    Args:
        infer: (N, H, W, 3) uint8 -> logits (N, K, h, w).
        to_labels: those logits -> labels (N, H, W).
        images: (H, W, C) uint8 or uint16, all of one size. The batch repeats them in order.
        expected: labels (H, W) of each image by eager fp32; empty if unknown.
        device: device of the network.
        gmacs: 10^9 multiply-adds of the network per image, None if unknown.
        batch: images per call.
        scope: the timed part. ``net`` is from bytes on the device to logits at the network's stride. ``net+labels`` is to one label per
            pixel, still on the device. ``end_to_end`` is from encoded PNG files in memory to label maps in host memory.
        precision: selects the peak throughput to compare with.
        max_seconds: maximum total time of the counted calls.
        ci_half_width: target half-width of the median's 95 % confidence interval, as a fraction of the median.

    Returns:
        ``ms_per_image``, ``ms_per_batch`` (p50, p90, p99), ``images_per_s``, ``first_call_ms``, ``calls``, ``peak_memory_mb`` (10^6 bytes,
        held by torch on CUDA and by the whole process otherwise), ``agreement``, the machine's ``peak``, ``share_of_peak`` (the fraction
        of the peak throughput) and ``warnings``.
    """
    reset_peak_memory(device)
    call = _timed_call(infer, to_labels, [images[i % len(images)] for i in range(batch)], device, scope)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    first_call = time.perf_counter() - start
    times = measure(call, device, max_seconds=max_seconds, ci_half_width=ci_half_width)
    memory = peak_memory(device)  # read before the roofline and the agreement allocate memory
    peak = roofline(device, PEAK_DTYPES[precision])
    median = times.percentiles()["p50"] / 1000
    return {
        "ms_per_image": times.percentiles(batch),
        "ms_per_batch": times.percentiles(),
        "images_per_s": batch / median,
        "first_call_ms": 1000 * first_call,
        "calls": {"counted": len(times.seconds), "warmup": times.warmup},
        "agreement": _agreement(infer, to_labels, images, expected, device, batch),
        "peak_memory_mb": memory / 1e6,
        "peak": peak,
        "share_of_peak": gmacs and 2 * gmacs * batch / 1000 / median / peak["tflops"],
        "warnings": times.warnings(ci_half_width) + _single_label_warning(expected),
    }


def _timed_call(
    infer: InferenceFn, to_labels: LabelsFn, images: Sequence[np.ndarray], device: torch.device, scope: Scope
) -> Callable[[], object]:
    """Build the function to time for a scope."""
    if scope == "end_to_end":
        import cv2

        if images[0].shape[2] != 3 or images[0].dtype != np.uint8:
            raise ConfigError("scope=end_to_end decodes 8-bit RGB files, which this network does not take. Set scope=net+labels.")
        files = [cv2.imencode(".png", image[:, :, ::-1])[1].tobytes() for image in images]

        def end_to_end() -> np.ndarray:
            decoded = [decode_rgb(file)[0] for file in files]
            return to_labels(infer(torch.from_numpy(np.stack(decoded)).to(device))).cpu().numpy()

        return end_to_end
    batch = torch.from_numpy(np.stack(images)).to(device)
    return (lambda: infer(batch)) if scope == "net" else (lambda: to_labels(infer(batch)))


def _single_label_warning(expected: Sequence[np.ndarray]) -> list[str]:
    """Warn if the expected labels are a single class.

    Any runtime that predicts that class everywhere would then agree.
    """
    classes = np.unique(np.concatenate([labels.ravel() for labels in expected])) if expected else []
    if len(classes) != 1:
        return []
    return [f"eager fp32 labels every pixel as class {classes[0]}: agreement says nothing"]


def _agreement(
    infer: InferenceFn,
    to_labels: LabelsFn,
    images: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    device: torch.device,
    batch: int,
) -> float | None:
    """Compute the fraction of pixels labeled as in eager fp32.

    It runs as many batches as there are images, so that each image takes each position in a batch. None
    if the labels of eager fp32 are unknown.
    """
    fractions, count = [], len(expected)
    for first in range(count):
        indices = [(first + i) % count for i in range(batch)]
        actual = to_labels(infer(torch.from_numpy(np.stack([images[i] for i in indices])).to(device))).cpu().numpy()
        fractions += [float((labels == expected[i]).mean()) for labels, i in zip(actual, indices, strict=True)]
    return sum(fractions) / len(fractions) if fractions else None
