"""Blur and color jitter of training images."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import numpy as np

from segzoo.transforms.warp import with_channels

if TYPE_CHECKING:
    import albumentations


def blurred(image: np.ndarray) -> np.ndarray:
    """Blur an image of any channels, as ``color_transform`` does."""
    import cv2

    return with_channels(cv2.GaussianBlur(image, (5, 5), 1.1), image)


def color_transform(color_jitter: float, blur: float) -> albumentations.Compose:
    """Blur and color jitter of albumentations.

    Warnings are raised as errors because albumentations only warns about unknown arguments.
    """
    # read at import: without it, every import asks a server for newer versions
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    factors = (1 - color_jitter, 1 + color_jitter)
    hue = (-color_jitter / 5, color_jitter / 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return albumentations.Compose(
            [
                albumentations.GaussianBlur(blur_limit=(5, 5), sigma_limit=(1.1, 1.1), p=blur),
                albumentations.ColorJitter(factors, factors, factors, hue, p=float(color_jitter > 0)),
            ]
        )
