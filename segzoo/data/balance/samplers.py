"""Samplers that draw images of rare classes more often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np

from segzoo.data.balance.sampling import Draw, Shuffle, derive_seed
from segzoo.registry import SAMPLERS, ConfigError, Range

CountClasses = Callable[[], np.ndarray]  # pixels of each class in each training image, (images, classes)


@SAMPLERS.register
def shuffle(count_classes: CountClasses) -> None:
    """Each image once per epoch, in random order."""


@SAMPLERS.register
def rare_class(
    count_classes: CountClasses,
    *,
    fraction: Annotated[float, Range(0, 1, above=True)] = 0.5,
    power: Annotated[float, Range(0, 10)] = 1.0,
) -> RareClassSampler:
    """Crops around pixels of a class that is drawn by inverse frequency.

    For a fraction of the samples, a class is drawn with a probability proportional to an inverse power of its share of the labeled
    pixels, then one of the images that contain it, then one of its pixels there, which the crop contains. The other samples are those of
    ``shuffle``, so images without a rare class are seen as well. Without ``augment.crop``, whole images are drawn in this way.

    Args:
        count_classes: counts the pixels of each class in each image.
        fraction: fraction of the samples whose class is drawn.
        power: 1 draws classes by inverse frequency, 0.5 by its square root, 0 all alike.

    Raises:
        ConfigError: no image has a labeled pixel.
    """
    counts = count_classes()
    if not counts.any():
        raise ConfigError("sampler=rare_class needs labeled pixels, and all training images are ignored. Check data.label_map.")
    return RareClassSampler(counts, fraction, power)


@SAMPLERS.register
def repeat_factor(
    count_classes: CountClasses, *, threshold: Annotated[float, Range(0, 1, above=True)] = 0.1
) -> RepeatFactorSampler:
    """Repetition of images that contain rare classes.

    The repeat factor of a class is max(1, sqrt(threshold / f)), where f is the fraction of the images that contain it, and that of an
    image the largest of its classes (Gupta et al., CVPR 2019, arXiv:1908.03195, sec. 4, with a threshold of 0.001 for 100,000 images). An
    image is repeated that often on average. Deviation: images are rounded together and not each by itself, so that all epochs have one
    length and a run resumes at any position.

    Args:
        count_classes: counts the pixels of each class in each image.
        threshold: fraction of the images below which a class is rare.

    Raises:
        ConfigError: no class is rare, so no image would be repeated.
    """
    counts = count_classes()
    frequencies = (counts > 0).mean(0)
    rarest = frequencies[frequencies > 0].min(initial=1.0)
    if rarest >= threshold:
        raise ConfigError(
            f"sampler=repeat_factor would repeat no image: each class is in at least {rarest:.2%} of the images, and "
            f"sampler.threshold={threshold:g}. Set a threshold above {rarest:.4g}, or sampler=rare_class, which goes by pixels."
        )
    return RepeatFactorSampler(counts, threshold)


class RareClassSampler:
    """Sampler returned by :func:`rare_class`."""

    def __init__(self, counts: np.ndarray, fraction: float, power: float):
        pixels = counts.sum(0)
        self._train_ids = np.flatnonzero(pixels)
        weights = (pixels[self._train_ids] / pixels.sum()) ** -power
        self._probabilities = weights / weights.sum()
        self._images = [np.flatnonzero(counts[:, train_id]) for train_id in self._train_ids]
        self._fraction, self._shuffle = fraction, Shuffle(len(counts))

    def __len__(self) -> int:
        return len(self._shuffle)

    def epoch(self, seed: int, epoch: int) -> Callable[[int], Draw]:
        """Return the draws of an epoch, as many as there are images."""
        shuffled = self._shuffle.epoch(seed, epoch)

        def draw(position: int) -> Draw:
            rng = np.random.default_rng(derive_seed(seed, epoch, position, 0))
            if rng.random() >= self._fraction:
                return shuffled(position)
            number = rng.choice(len(self._train_ids), p=self._probabilities)
            return Draw(int(rng.choice(self._images[number])), int(rng.integers(2**63)), int(self._train_ids[number]))

        return draw


class RepeatFactorSampler:
    """Sampler returned by :func:`repeat_factor`."""

    def __init__(self, counts: np.ndarray, threshold: float):
        found = counts > 0
        class_factors = np.sqrt(threshold / found.mean(0).clip(min=1 / len(counts))).clip(min=1)
        factors = np.where(found, class_factors, 1).max(1)
        self._length = round(factors.sum())
        self._factors = factors * (self._length / factors.sum())

    def __len__(self) -> int:
        return self._length

    def epoch(self, seed: int, epoch: int) -> Callable[[int], Draw]:
        """Return the draws of an epoch.

        The factors are added up in random order from a random offset below 1. Each integer that the sum passes is a copy of the image, so
        an image has its factor of copies, rounded up or down.
        """
        rng = np.random.default_rng(derive_seed(seed, epoch))
        order = rng.permutation(len(self._factors))
        ends = np.floor(self._factors[order].cumsum() + rng.random()).astype(int)
        ends[-1] = self._length  # whatever the rounding of the sum
        copies = np.diff(ends, prepend=0)
        numbers = np.arange(self._length) - np.repeat(ends - copies, copies)  # 0, 1, ... among the copies of an image
        drawn = rng.permutation(np.stack([np.repeat(order, copies), numbers], 1)).tolist()
        return lambda position: Draw(drawn[position][0], derive_seed(seed, epoch, *drawn[position]))
