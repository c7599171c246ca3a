"""Time of the fully connected CRF beside pydensecrf2, one CamVid picture, taken in turns: ``python -m benchmarks.crf_time``.

480x360 pixels, 11 classes, 10 steps of mean field with both kernels; the energies come from the labels with every tenth pixel wrong.
Needs SEGZOO_DATA with CamVid, and ``pip install pydensecrf2``, which compiles.
"""

from __future__ import annotations

import numpy as np
import torch
from segzoo.tools._entry import plain
from segzoo.tools._words import read_words

from benchmarks.harness.interleaved_timing import compared, in_turns
from benchmarks.harness.result_files import write_result
from segzoo.config import build_data
from segzoo.crf import DenseCRF
from segzoo.types import IGNORE

CLASSES, STEPS, PAIRS = 11, 10, 8
BILATERAL, GAUSSIAN = (4.0, 49.0, 5.0), (3.0, 3.0)


def case() -> tuple[np.ndarray, np.ndarray]:
    """The first validation picture (H, W, 3) uint8, and energies (K, H, W) float32 of its disturbed labels."""
    sample = build_data(plain(read_words("train", ["data=camvid"]).jobs[0])[0]["data"], "val")[0]
    rng = np.random.default_rng(0)
    label = np.where(sample.label == IGNORE, 0, sample.label)
    label = np.where(rng.random(label.shape) < 0.1, rng.integers(0, CLASSES, label.shape), label)
    probabilities = np.full((CLASSES, *label.shape), 0.3 / (CLASSES - 1), np.float32)
    np.put_along_axis(probabilities, label[None], 0.7, 0)
    return sample.image, -np.log(probabilities)


def ours(image: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Labels by segzoo."""
    field = DenseCRF(torch.from_numpy(image)[None], bilateral=BILATERAL, gaussian=GAUSSIAN)
    return field.marginals(torch.from_numpy(energy)[None], STEPS)[0].argmax(0).numpy()


def theirs(image: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Labels by pydensecrf2, with the same kernels and row normalisation."""
    from pydensecrf import densecrf  # type: ignore[attr-defined]

    height, width = image.shape[:2]
    field = densecrf.DenseCRF2D(width, height, CLASSES)
    field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(CLASSES, -1)))
    rows = {"kernel": densecrf.DIAG_KERNEL, "normalization": densecrf.NORMALIZE_AFTER}
    field.addPairwiseGaussian(sxy=GAUSSIAN[1], compat=GAUSSIAN[0], **rows)
    field.addPairwiseBilateral(sxy=BILATERAL[1], srgb=BILATERAL[2], rgbim=np.ascontiguousarray(image), compat=BILATERAL[0], **rows)
    return np.argmax(field.inference(STEPS), 0).reshape(height, width)


def main() -> None:
    image, energy = case()
    sides = {"ours": ours, "peer": theirs}
    agreement = float((ours(image, energy) == theirs(image, energy)).mean())
    calls = {name: lambda side=side: side(image, energy) for name, side in sides.items()}
    row = {"hw": list(image.shape[:2]), "classes": CLASSES, "iterations": STEPS, "agreement": agreement}
    row |= compared(in_turns(calls, seconds=PAIRS, least=PAIRS, warm=0))
    print(row)
    print(write_result("crf_360x480", "python -m benchmarks.crf_time", [row], packages=("pydensecrf2",)))


if __name__ == "__main__":
    main()
