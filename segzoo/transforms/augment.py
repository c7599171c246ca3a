"""Training augmentation: one affine map moves image and label together, albumentations changes the colors.

Scale, rotation, mirror, crop and padding are composed into one matrix, and each output pixel is read once from the source. That gives what
resizing the whole image and cropping it gives (to one gray level), but costs only the crop: about 2 ms at 360x480. A label is copied from
the nearest source pixel and never blended, so no value can appear that was not there, other than ignore in the padding.
"""

from __future__ import annotations

import math
import os
import warnings
from typing import Annotated, Any

import numpy as np

from segzoo.registry import AUGMENTS, ConfigError, Range
from segzoo.types import DatasetInfo, Sample


@AUGMENTS.register
def none(info: DatasetInfo) -> Identity:
    """No augmentation: every sample as it is in its file."""
    return Identity()


@AUGMENTS.register
def standard(
    info: DatasetInfo,
    *,
    crop: Annotated[tuple[int, int], Range(1, None)] | None = None,
    scale: bool = True,
    scale_range: Annotated[tuple[float, float], Range(0, None, above=True)] = (0.5, 2.0),
    hflip: bool = True,
    rotate: Annotated[float, Range(0, 180)] = 0.0,
    color_jitter: Annotated[float, Range(0, 1)] = 0.0,
    blur: Annotated[float, Range(0, 1)] = 0.0,
) -> StandardAugmentation:
    """The field's usual set: random scale, mirror, rotation, crop, blur and color jitter.

    With ``rotate=10 blur=0.5`` the set of Zhao et al., CVPR 2017, arXiv:1612.01105, sec. 5.1. A crop that sticks out of the image is
    padded with the data's mean color and the ignore label, at a random place.

    Args:
        info: mean color and ignore id of the data.
        crop: size (H, W) of what comes out; None: each image's own size.
        scale: resize by a factor drawn evenly from ``scale_range``, the same for both axes.
        scale_range: smallest and largest factor.
        mirror: swap left and right in half of the images.
        rotate: in half of the images, turn by an angle drawn evenly from -rotate to rotate, in degrees.
        color: jitter of brightness, contrast and saturation by factors 1 - color to 1 + color, and of hue by a fifth of it
            (in turns); 0 is off. Padding inside the crop is jittered too.
        blur: share of images smoothed by a Gaussian of 5x5 pixels.

    Returns:
        ``(sample, seed) -> sample``, a function of nothing but its arguments.

    Raises:
        ConfigError: scale_range starts above its end.
    """
    if scale_range[0] > scale_range[1]:
        raise ConfigError(
            f"augment.scale_range={list(scale_range)}: wanted the smaller factor first, [{scale_range[1]}, {scale_range[0]}]"
        )
    factors = scale_range if scale else (1.0, 1.0)
    fill = tuple(round(value) for value in info.mean)
    return StandardAugmentation(crop, factors, hflip, rotate, color_jitter, blur, fill, info.ignore)


class Identity:
    """Hands every sample on."""

    def __call__(self, sample: Sample, seed: int) -> Sample:
        return sample


class StandardAugmentation:
    """See :func:`standard`. Holds plain values, so that it can be sent to worker processes; each builds its own color transform."""

    def __init__(
        self,
        crop: tuple[int, int] | None,
        factors: tuple[float, float],
        hflip: bool,
        rotate: float,
        color_jitter: float,
        blur: float,
        fill: tuple[int, ...],
        ignore: int,
    ):
        self.crop, self.factors, self.hflip, self.rotate = crop, factors, hflip, rotate
        self.color_jitter, self.blur, self.fill, self.ignore = color_jitter, blur, fill, ignore
        self._colours: Any = None

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample augmented as ``seed`` says: image (H, W, 3) uint8 -> (h, w, 3) uint8, label (H, W) -> (h, w) of the same type."""
        draws = np.random.default_rng(seed).random(
            6
        )  # one number for each purpose: switching one off leaves the others as they were
        height, width = sample.label.shape
        crop_height, crop_width = self.crop or (height, width)
        factor = self.factors[0] + draws[0] * (self.factors[1] - self.factors[0])
        scaled = max(1, round(height * factor)), max(1, round(width * factor))
        top = _paste(scaled[0] - crop_height, draws[1])
        left = _paste(scaled[1] - crop_width, draws[2])
        angle = (2 * draws[5] - 1) * self.rotate if draws[4] < 0.5 else 0.0
        mirrored = self.hflip and draws[3] < 0.5
        matrix = source_map((height, width), scaled, (crop_height, crop_width), (top, left), angle, mirrored)
        padded = angle != 0 or min(scaled[0] - crop_height, scaled[1] - crop_width) < 0
        image, label = self._warp(sample, matrix, (crop_width, crop_height), padded)
        return Sample(self._jitter(image, seed), label, sample.name)

    def _warp(self, sample: Sample, matrix: np.ndarray, size: tuple[int, int], padded: bool) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        def nearest(array: np.ndarray, beyond: int) -> np.ndarray:
            flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
            return cv2.warpAffine(array, matrix, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=beyond)

        linear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(sample.image, matrix, size, flags=linear, borderMode=cv2.BORDER_REPLICATE)
        if padded:
            image[nearest(np.ones(sample.label.shape, np.uint8), 0) == 0] = self.fill
        return image, nearest(sample.label, self.ignore)

    def _jitter(self, image: np.ndarray, seed: int) -> np.ndarray:
        if self.color_jitter == 0 and self.blur == 0:
            return image
        if self._colours is None:
            self._colours = _color_transform(self.color_jitter, self.blur)
        self._colours.set_random_seed(seed % 2**32)  # every time: albumentations 2.0.8 repeats its numbers in workers and epochs
        return self._colours(image=image)["image"]


def source_map(
    size: tuple[int, int],
    scaled: tuple[int, int],
    crop: tuple[int, int],
    corner: tuple[int, int],
    angle: float,
    mirrored: bool,
) -> np.ndarray:
    """The (2, 3) matrix from a crop's pixel (x, y, 1) to the source pixel (x, y) it shows.

    Read backwards: the source of ``size`` (H, W) is resized to ``scaled``, turned by ``angle`` degrees about its center, cut with the crop's
    corner at ``corner`` (top, left; negative: padding), and mirrored. Pixel i covers i to i + 1, as in resizing with half-pixel centers.
    """
    half = _shift(0.5, 0.5)
    flip = np.diag([-1.0, 1.0, 1.0]) if mirrored else np.eye(3)
    flip[0, 2] = crop[1] if mirrored else 0
    center = scaled[1] / 2, scaled[0] / 2
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    about_centre = _shift(*center) @ turn @ _shift(-center[0], -center[1])
    shrink = np.diag([size[1] / scaled[1], size[0] / scaled[0], 1.0])
    return (_shift(-0.5, -0.5) @ shrink @ about_centre @ _shift(corner[1], corner[0]) @ flip @ half)[:2]


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def _paste(room: int, draw: float) -> int:
    """A corner drawn evenly: 0 to ``room``, or ``room`` to 0 where the crop is the larger one."""
    return math.floor(draw * (abs(room) + 1)) * (1 if room >= 0 else -1)


def _color_transform(color: float, blur: float) -> Any:
    """Albumentations' blur and color jitter. Its warnings are errors: it only warns of arguments it does not know."""
    os.environ.setdefault(
        "NO_ALBUMENTATIONS_UPDATE", "1"
    )  # read at import: without it each import asks a server for newer versions
    import albumentations

    factors = (1 - color, 1 + color)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return albumentations.Compose(
            [
                albumentations.GaussianBlur(blur_limit=(5, 5), sigma_limit=(1.1, 1.1), p=blur),
                albumentations.ColorJitter(factors, factors, factors, (-color / 5, color / 5), p=float(color > 0)),
            ]
        )
