"""Mixing of images within a batch: mixup and CutMix for segmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from segzoo.registry import MIXES, Range

Alpha = Annotated[float, Range(0, 1000, above=True)]
Probability = Annotated[float, Range(0, 1)]
WeightedLabels = list[tuple[Tensor, float]]  # label maps (N, H, W) and their weights in the loss


MixImages = Callable[[Tensor], Tensor]  # images (N, 3, H, W) -> mixed images of the same shape


class MixBatch(Protocol):
    """Function that draws how the images of a batch are mixed."""

    def __call__(self, label: Tensor, seed: int) -> tuple[list[tuple[Tensor, float]], MixImages]:
        """Draw the mixing of a batch.

        Args:
            label: label maps (N, H, W).
            seed: seed of the random draw.

        Returns:
            Label maps with their weights, and a function that mixes the images in the same way.
        """
        ...


class Mix(NamedTuple):
    """Labels of a mixed batch and the matching function for its images."""

    targets: WeightedLabels
    mix_images: MixImages


@MIXES.register
def none() -> None:
    """No mixing: images stay unchanged."""


@MIXES.register
def mixup(*, alpha: Alpha = 0.2, prob: Probability = 1.0) -> MixBatch:
    """Blend each image with the next one of its batch.

    The loss is the weighted sum over both label maps (Zhang et al., ICLR 2018, arXiv:1710.09412). A pixel ignored in one label map
    contributes only the weight of the other.

    Args:
        alpha: parameter of the Beta distribution of the mixing weight, above 0. Small values mix little.
        prob: fraction of the batches that are mixed.
    """

    def mix(label: Tensor, seed: int) -> Mix:
        rng = np.random.default_rng(seed)
        weight = float(rng.beta(alpha, alpha))
        if rng.random() >= prob:
            return Mix([(label, 1.0)], _identity)
        return Mix([(label, weight), (label.roll(1, 0), 1 - weight)], lambda x: x * weight + x.roll(1, 0) * (1 - weight))

    return mix


@MIXES.register
def cutmix(*, alpha: Alpha = 1.0, prob: Probability = 0.5) -> MixBatch:
    """Replace a box of each image with that of the next image.

    Images follow their order in the batch (Yun et al., ICCV 2019, arXiv:1905.04899). Label maps are cut in the same way, as
    in French et al., BMVC 2020, arXiv:1906.01916, so labels are never blended.

    Args:
        alpha: parameter of the Beta distribution of the area fraction of the box, above 0.
        prob: fraction of the batches that are mixed.
    """

    def mix(label: Tensor, seed: int) -> Mix:
        rng = np.random.default_rng(seed)
        box = _random_box(rng, 1 - float(rng.beta(alpha, alpha)), label.shape[-2], label.shape[-1])
        if rng.random() >= prob:
            return Mix([(label, 1.0)], _identity)
        inside = torch.zeros(label.shape[-2:], dtype=torch.bool, device=label.device)
        inside[box] = True
        return Mix([(torch.where(inside, label.roll(1, 0), label), 1.0)], lambda x: torch.where(inside, x.roll(1, 0), x))

    return mix


def _random_box(rng: np.random.Generator, area: float, height: int, width: int) -> tuple[slice, slice]:
    """Draw a box around a random pixel, clipped at the image borders.

    ``area`` is its fraction of the image before clipping.
    """
    sides = [round(side * area**0.5) for side in (height, width)]
    centers = [int(rng.integers(0, side)) for side in (height, width)]
    top, left = (max(0, center - side // 2) for center, side in zip(centers, sides, strict=True))
    return slice(top, min(height, centers[0] + (sides[0] + 1) // 2)), slice(left, min(width, centers[1] + (sides[1] + 1) // 2))


def _identity(x: Tensor) -> Tensor:
    return x
