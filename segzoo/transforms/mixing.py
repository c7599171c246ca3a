"""Training images mixed with each other, batch by batch: mixup and CutMix, for label maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from segzoo.registry import MIXES, Range

Alpha = Annotated[float, Range(0, None, above=True)]
Probability = Annotated[float, Range(0, 1)]
Targets = list[tuple[Tensor, float]]  # label maps and their shares of the loss
MixImages = tuple[Targets, Callable[[Tensor], Tensor]]  # and what does the same to the images
Mix = Callable[[Tensor, int], MixImages]


@MIXES.register
def none() -> None:
    """Images stay what they are."""


@MIXES.register
def mixup(*, alpha: Alpha = 0.2, prob: Probability = 1.0) -> Mix:
    """Each image is blended with the next of its batch, and learned with both label maps at their shares.

    Zhang et al., ICLR 2018, arXiv:1710.09412. A pixel that one map ignores counts by the other's share alone.

    Args:
        alpha: of the Beta distribution that the share is drawn from, above 0; small values mix little.
        chance: share of the batches that are mixed.
    """

    def blend(label: Tensor, seed: int) -> MixImages:
        rng = np.random.default_rng(seed)
        share = float(rng.beta(alpha, alpha))
        if rng.random() >= prob:
            return [(label, 1.0)], _same
        return [(label, share), (label.roll(1, 0), 1 - share)], lambda x: x * share + x.roll(1, 0) * (1 - share)

    return blend


@MIXES.register
def cutmix(*, alpha: Alpha = 1.0, prob: Probability = 0.5) -> Mix:
    """A box of each image is replaced by that of the next of its batch, label map and all.

    Yun et al., ICCV 2019, arXiv:1905.04899; with label maps as French et al., BMVC 2020, arXiv:1906.01916, no label is ever blended.

    Args:
        alpha: of the Beta distribution that the share of the box is drawn from, above 0.
        chance: share of the batches that are cut.
    """

    def blend(label: Tensor, seed: int) -> MixImages:
        rng = np.random.default_rng(seed)
        box = _box(rng, 1 - float(rng.beta(alpha, alpha)), label.shape[-2], label.shape[-1])
        if rng.random() >= prob:
            return [(label, 1.0)], _same
        inside = torch.zeros(label.shape[-2:], dtype=torch.bool, device=label.device)
        inside[box] = True
        return [(torch.where(inside, label.roll(1, 0), label), 1.0)], lambda x: torch.where(inside, x.roll(1, 0), x)

    return blend


def _box(rng: np.random.Generator, share: float, height: int, width: int) -> tuple[slice, slice]:
    """A box of that share of the image around a random pixel, cut at the borders."""
    sides = [round(side * share**0.5) for side in (height, width)]
    middles = [int(rng.integers(0, side)) for side in (height, width)]
    top, left = (max(0, middle - side // 2) for middle, side in zip(middles, sides, strict=True))
    return slice(top, min(height, middles[0] + (sides[0] + 1) // 2)), slice(left, min(width, middles[1] + (sides[1] + 1) // 2))


def _same(x: Tensor) -> Tensor:
    return x
