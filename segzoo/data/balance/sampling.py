"""Order in which training images are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from segzoo.types import Sample


class Draw(NamedTuple):
    """A training image to read.

    Attributes:
        index: its position in the data set.
        seed: seed of its augmentation.
        train_id: class that the crop should contain, or None.
    """

    index: int
    seed: int
    train_id: int | None = None


class Sampler(Protocol):
    """Endless sequence of draws, made of epochs of one length.

    Draws depend on the seed and their position alone, so a run resumes anywhere and ranks share one sequence.
    """

    def __len__(self) -> int:
        """Draws of an epoch, at least 1."""
        ...

    def epoch(self, seed: int, epoch: int) -> Callable[[int], Draw]:
        """Return the draws of an epoch by position, from 0."""
        ...


class Shuffle:
    """Sampler that draws each image once per epoch."""

    def __init__(self, num_images: int):
        self._num_images = num_images

    def __len__(self) -> int:
        return self._num_images

    def epoch(self, seed: int, epoch: int) -> Callable[[int], Draw]:
        """Return a random permutation of the images."""
        order = np.random.default_rng(derive_seed(seed, epoch)).permutation(self._num_images).tolist()
        return lambda position: Draw(order[position], derive_seed(seed, epoch, order[position]))


def focus_on(sample: Sample, train_id: int, seed: int) -> Sample:
    """Focus a sample on a random pixel of a class.

    A sample without the class is left unchanged.
    """
    pixels = np.flatnonzero(sample.label == train_id)
    if not len(pixels):
        return sample
    pixel = int(pixels[np.random.default_rng(derive_seed(seed, train_id)).integers(len(pixels))])
    return sample._replace(focus=divmod(pixel, sample.label.shape[1]))


def derive_seed(*numbers: int) -> int:
    """Derive a 64-bit seed from integers.

    The result is the same on every machine and in every version, and depends on the order and on every digit.
    """
    text = "/".join(str(int(number)) for number in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
