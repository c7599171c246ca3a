"""Time of the fully connected CRF compared with pydensecrf2.

One CamVid image of 480x360 pixels, 11 classes, 10 mean-field iterations with both kernels; the unary energies come from the labels with
a tenth of the pixels replaced at random. Calls are interleaved.

Needs SEGZOO_DATA with CamVid, and pydensecrf2, which pip compiles.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.harness.interleaved_timing import compare_to_peer, time_interleaved
from benchmarks.harness.result_files import write_result
from segzoo.cli.app import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.build import build_data
from segzoo.inference.dense_crf import DenseCRF
from segzoo.types import IGNORE

CLASSES, ITERATIONS = 11, 10
SECONDS, MIN_ROUNDS = 8, 8
BILATERAL, GAUSSIAN = (4.0, 49.0, 5.0), (3.0, 3.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there is one case."""


def load_case() -> tuple[np.ndarray, np.ndarray]:
    """Return one validation image and noisy energies of its labels.

    The image is (H, W, 3) uint8, the energies are (K, H, W) float32.
    """
    sample = build_data(resolve_config(parse_overrides("train", ["data=camvid"]).jobs[0])[0]["data"], "val")[0]
    rng = np.random.default_rng(0)
    label = np.where(sample.label == IGNORE, 0, sample.label)
    label = np.where(rng.random(label.shape) < 0.1, rng.integers(0, CLASSES, label.shape), label)
    probabilities = np.full((CLASSES, *label.shape), 0.3 / (CLASSES - 1), np.float32)
    np.put_along_axis(probabilities, label[None], 0.7, 0)
    return sample.image, -np.log(probabilities)


def segzoo_labels(image: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Run segzoo's CRF."""
    crf = DenseCRF(torch.from_numpy(image)[None], bilateral=BILATERAL, gaussian=GAUSSIAN)
    return crf.marginals(torch.from_numpy(energy)[None], ITERATIONS)[0].argmax(0).numpy()


def pydensecrf_labels(image: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Run pydensecrf2 with the same kernels and row normalization."""
    from pydensecrf import densecrf  # type: ignore[attr-defined]

    height, width = image.shape[:2]
    crf = densecrf.DenseCRF2D(width, height, CLASSES)
    crf.setUnaryEnergy(np.ascontiguousarray(energy.reshape(CLASSES, -1)))
    options = {"kernel": densecrf.DIAG_KERNEL, "normalization": densecrf.NORMALIZE_AFTER}
    crf.addPairwiseGaussian(sxy=GAUSSIAN[1], compat=GAUSSIAN[0], **options)
    crf.addPairwiseBilateral(sxy=BILATERAL[1], srgb=BILATERAL[2], rgbim=np.ascontiguousarray(image), compat=BILATERAL[0], **options)
    return np.argmax(crf.inference(ITERATIONS), 0).reshape(height, width)


def main(args: argparse.Namespace) -> None:
    """Time both implementations on one image."""
    image, energy = load_case()
    agreement = float((segzoo_labels(image, energy) == pydensecrf_labels(image, energy)).mean())
    calls = {"segzoo": lambda: segzoo_labels(image, energy), "peer": lambda: pydensecrf_labels(image, energy)}
    row = {"hw": list(image.shape[:2]), "classes": CLASSES, "iterations": ITERATIONS, "agreement": agreement}
    taken = time_interleaved(calls, seconds=SECONDS, min_rounds=MIN_ROUNDS, warmup=0)
    row |= compare_to_peer(taken["segzoo"], taken["peer"])
    print(row)
    print(write_result("crf_360x480", args.command, [row], packages=("pydensecrf2",)))
