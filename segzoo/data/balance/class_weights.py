"""Loss weights that give rare classes more influence.

Each function takes the labeled pixels of each class in each image, (images, classes), and returns one weight per class. A class without a
pixel has the weight 1, which changes nothing.
"""

from __future__ import annotations

import numpy as np

MAX_WEIGHT = 1e6  # of ``loss.class_weights``


def median_frequency(counts: np.ndarray) -> np.ndarray:
    """Median-frequency weights, as in SegNet's training on CamVid.

    The frequency of a class is its fraction of the labeled pixels of the images that contain it. Its weight is the median frequency of
    all classes divided by its own (Eigen and Fergus, ICCV 2015, arXiv:1411.4734, sec. 6.3.2).

    Args:
        counts: pixels of each class in each image, (images, classes).
    """
    pixels = counts.sum(0)
    in_images = ((counts > 0) * counts.sum(1, keepdims=True)).sum(0)
    found = pixels > 0
    frequency = pixels[found] / in_images[found]
    return _fill(found, np.median(frequency) / frequency if found.any() else frequency)


def inverse_sqrt(counts: np.ndarray) -> np.ndarray:
    """Inverse square roots of class fractions, with mean 1.

    The fraction of a class is that of the labeled pixels of all images.

    Args:
        counts: pixels of each class in each image, (images, classes).
    """
    pixels = counts.sum(0)
    found = pixels > 0
    return _fill(found, _mean_one(pixels[found] ** -0.5))


def effective_number(counts: np.ndarray, beta: float = 0.999) -> np.ndarray:
    """Weights by the effective number of images, with mean 1.

    The effective number of n samples is (1 - beta^n) / (1 - beta), and the weight of a class is its inverse (Cui et al., CVPR 2019,
    arXiv:1901.05555, eq. 2 and sec. 4). The samples of a class are the images that contain it, because its pixels in one image resemble
    each other.

    Args:
        counts: pixels of each class in each image, (images, classes).
        beta: 0 weights all classes alike, and values near 1 weight by the inverse number of images.
    """
    images = (counts > 0).sum(0)
    found = images > 0
    return _fill(found, _mean_one((1 - beta) / (1 - beta ** images[found])))


def automatic_class_weights(counts: np.ndarray) -> tuple[float, ...]:
    """Weights of ``loss.class_weights=auto``.

    They are the median-frequency weights with four significant digits, so that they can be typed as well.

    Args:
        counts: pixels of each class in each image, (images, classes).
    """
    return tuple(min(float(f"{weight:.4g}"), MAX_WEIGHT) for weight in median_frequency(counts))


def _mean_one(weights: np.ndarray) -> np.ndarray:
    return weights / weights.mean() if weights.size else weights


def _fill(found: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spread the weights of the classes that exist over all classes."""
    filled = np.ones(len(found))
    filled[found] = weights
    return filled
