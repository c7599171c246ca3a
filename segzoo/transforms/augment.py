"""Training augmentation by scaling, cropping, flipping, rotation, color jitter and blur.

Only the crop is computed. It is cut from the source at whole pixels and then resized, so it may be shifted by up to half a source pixel from
the crop of a resized whole image. A rotated or padded crop is warped by one matrix instead. Labels are sampled from the nearest source pixel
and never blended, so no new value can appear except ignore in the padding. Color jitter and blur are those of albumentations.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import numpy as np

from segzoo.data.jpeg_reduction import largest_reduction
from segzoo.messages import Example
from segzoo.registry import AUGMENTS, ConfigError, Range
from segzoo.transforms.colors import blurred, color_transform
from segzoo.transforms.warp import resize, source_span, warp_affine
from segzoo.types import DatasetInfo, Sample

if TYPE_CHECKING:
    import albumentations


@AUGMENTS.register
def none(info: DatasetInfo) -> Identity:
    """No augmentation: samples stay unchanged."""
    return Identity()


@AUGMENTS.register
def standard(
    info: DatasetInfo,
    *,
    crop: Annotated[tuple[int, int], Range(1, 16384), Example([480, 640])] | None = None,
    scale: bool = True,
    scale_range: Annotated[tuple[float, float], Range(0, 100, above=True)] = (0.5, 2.0),
    hflip: bool = True,
    rotate: Annotated[float, Range(0, 180)] = 0.0,
    color_jitter: Annotated[float, Range(0, 1)] = 0.0,
    blur: Annotated[float, Range(0, 1)] = 0.0,
    reduced_jpeg: bool = False,
) -> StandardAugmentation:
    """Random scale, horizontal flip, rotation, crop, blur and color jitter.

    With ``rotate=10 blur=0.5`` this is the augmentation of Zhao et al., CVPR 2017, arXiv:1612.01105, sec. 5.1. A crop larger than the
    image is padded with the mean color of the data and the ignore label, and the image is placed at random inside it.

    Args:
        info: mean color and ignore id of the data.
        crop: output size (H, W). None keeps the size of each image.
        scale: resize both axes by one factor drawn uniformly from ``scale_range``.
        scale_range: smallest and largest factor.
        hflip: flip half of the images horizontally.
        rotate: rotate half of the images by an angle drawn uniformly from -rotate to rotate, in degrees.
        color_jitter: jitter brightness, contrast and saturation by factors from 1 - color_jitter to 1 + color_jitter, and hue by up to
            a fifth of it in units of full turns. 0 is off. Padding inside the crop is jittered too. Only for 8-bit RGB.
        blur: fraction of the images blurred by a 5x5 Gaussian.
        reduced_jpeg: decode JPEG images at 1/2, 1/4 or 1/8 of their size where they are scaled down at least as much. It is faster, and
            its pixels are averages over blocks, where a bilinear resize skips pixels. Images of ``data.cache`` are not reduced.

    Returns:
        ``(sample, seed) -> sample``, a function of only its arguments.

    Raises:
        ConfigError: the smallest factor is above the largest, or colors are jittered where channels are not colors.
    """
    if scale_range[0] > scale_range[1]:
        raise ConfigError(
            f"augment.scale_range={list(scale_range)}: expected the smaller factor first, [{scale_range[1]}, {scale_range[0]}]"
        )
    if color_jitter and not info.pixels.is_rgb:
        raise ConfigError(
            f"augment.color_jitter={color_jitter:g} is for 8-bit RGB, and the images have {info.pixels}. Set augment.color_jitter=0."
        )
    factors = scale_range if scale else (1.0, 1.0)
    fill = tuple(round(value) for value in info.mean)
    return StandardAugmentation(crop, factors, hflip, rotate, color_jitter, blur, fill, info.ignore, reduced_jpeg)


class Identity:
    """Augmentation that returns samples unchanged."""

    def __call__(self, sample: Sample, seed: int) -> Sample:
        return sample


class StandardAugmentation:
    """Callable returned by :func:`standard`.

    It holds plain values and can be pickled to worker processes, each of which builds its own color transform.
    """

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
        reduced_jpeg: bool = False,
    ):
        self.crop, self.factors, self.hflip, self.rotate = crop, factors, hflip, rotate
        self.color_jitter, self.blur, self.fill, self.ignore = color_jitter, blur, fill, ignore
        self.reduced_jpeg = reduced_jpeg
        self._transform: albumentations.Compose | None = None

    def reduction(self, seed: int) -> int:
        """Divisor of the image's sides for this seed."""
        return largest_reduction(self._factor(np.random.default_rng(seed).random())) if self.reduced_jpeg else 1

    def _factor(self, draw: float) -> float:
        return self.factors[0] + draw * (self.factors[1] - self.factors[0])

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Augment a sample with the random numbers of ``seed``.

        The crop contains the focus of the sample, if there is one.

        Shapes: image (H, W, C) -> (h, w, C), label (H, W) -> (h, w), of the same dtypes.
        """
        # one number per transform: disabling one leaves the others unchanged
        draws = np.random.default_rng(seed).random(6)
        height, width = sample.label.shape
        crop_height, crop_width = self.crop or (height, width)
        factor = self._factor(draws[0])
        scaled = max(1, round(height * factor)), max(1, round(width * factor))
        angle = (2 * draws[5] - 1) * self.rotate if draws[4] < 0.5 else 0.0
        flipped = self.hflip and draws[3] < 0.5
        row, column = _focus((height, width), scaled, angle, sample.focus)
        top = _crop_offset(scaled[0], crop_height, draws[1], row)
        left = _crop_offset(scaled[1], crop_width, draws[2], column)
        if angle == 0 and crop_height <= scaled[0] and crop_width <= scaled[1]:
            rows, columns = sample.image.shape[:2]
            seen = (None, None) if sample.focus is None else [place // sample.reduction for place in sample.focus]
            spans = (
                source_span(top, crop_height, scaled[0], rows, seen[0]),
                source_span(left, crop_width, scaled[1], columns, seen[1]),
            )
            image = resize(sample.image[spans], (crop_height, crop_width), flipped)
            label = resize(
                sample.label[tuple(_enlarged(span, sample.reduction) for span in spans)], (crop_height, crop_width), flipped
            )
        else:
            matrix = source_map((height, width), scaled, (crop_height, crop_width), (top, left), angle, flipped)
            image, label = self._warp(sample, matrix, (crop_width, crop_height))
        return Sample(self._jitter(image, seed), label, sample.name)

    def _warp(self, sample: Sample, matrix: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        def nearest(array: np.ndarray, fill: int) -> np.ndarray:
            flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
            return warp_affine(array, matrix, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=fill)

        linear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        reduced = _reduce(matrix, sample.reduction)
        image = warp_affine(sample.image, reduced, size, flags=linear, borderMode=cv2.BORDER_REPLICATE)
        image[nearest(np.ones(sample.label.shape, np.uint8), 0) == 0] = self.fill
        return image, nearest(sample.label, self.ignore)

    def _jitter(self, image: np.ndarray, seed: int) -> np.ndarray:
        if self.color_jitter == 0 and self.blur == 0:
            return image
        if image.shape[2] != 3 or image.dtype != np.uint8:  # which albumentations does not blur
            return blurred(image) if np.random.default_rng((seed, 1)).random() < self.blur else image
        if self._transform is None:
            self._transform = color_transform(self.color_jitter, self.blur)
        # seeded per sample: albumentations 2.0.8 repeats its random numbers across workers and epochs
        self._transform.set_random_seed(seed % 2**32)
        return self._transform(image=image)["image"]


def source_map(
    size: tuple[int, int],
    scaled: tuple[int, int],
    crop: tuple[int, int],
    corner: tuple[int, int],
    angle: float,
    flipped: bool,
) -> np.ndarray:
    """Affine matrix (2, 3) that maps crop pixels to source pixels.

    It maps (x, y, 1) to (x, y). In the other direction, the source of ``size`` (H, W) is resized to ``scaled``, rotated by ``angle`` degrees about its center, cropped
    to ``crop`` with the top left corner at ``corner`` (top, left; negative means padding), and flipped horizontally. Pixel i covers i to
    i + 1, as in resizing with half-pixel centers.
    """
    half = _shift(0.5, 0.5)
    flip = np.diag([-1.0, 1.0, 1.0]) if flipped else np.eye(3)
    flip[0, 2] = crop[1] if flipped else 0
    center = scaled[1] / 2, scaled[0] / 2
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    about_center = _shift(*center) @ rotation @ _shift(-center[0], -center[1])
    unscale = np.diag([size[1] / scaled[1], size[0] / scaled[0], 1.0])
    return (_shift(-0.5, -0.5) @ unscale @ about_center @ _shift(corner[1], corner[0]) @ flip @ half)[:2]


def _enlarged(span: slice, reduction: int) -> slice:
    """Span of the full image below one of the reduced image."""
    return slice(span.start * reduction, span.stop * reduction)


def _reduce(matrix: np.ndarray, reduction: int) -> np.ndarray:
    """Change a map to the pixels of the reduced image."""
    return (_shift(-0.5, -0.5) @ np.diag([1 / reduction, 1 / reduction, 1.0]) @ _shift(0.5, 0.5) @ np.vstack([matrix, [0, 0, 1]]))[
        :2
    ]


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def _focus(
    size: tuple[int, int], scaled: tuple[int, int], angle: float, focus: tuple[int, int] | None
) -> tuple[int | None, int | None]:
    """Row and column of the focus after scaling and rotation.

    A rotation may move it out of the image.
    """
    if focus is None:
        return None, None
    matrix = np.vstack([source_map(size, scaled, scaled, (0, 0), angle, flipped=False), [0, 0, 1]])
    x, y, _ = np.linalg.solve(matrix, (focus[1], focus[0], 1))
    return round(y), round(x)


def _crop_offset(length: int, crop: int, draw: float, focus: int | None = None) -> int:
    """Offset of a crop drawn uniformly along one axis.

    It lies between 0 and the length of the image minus that of the crop, which is negative if the crop is larger. The crop contains
    ``focus``, even if that is outside the image.
    """
    margin = length - crop
    if focus is None:
        return math.floor(draw * (abs(margin) + 1)) * (1 if margin >= 0 else -1)
    first, last = focus - crop + 1, focus  # offsets of crops that contain it
    low, high = min(max(min(margin, 0), first), last), max(min(max(margin, 0), last), first)
    return low + math.floor(draw * (high - low + 1))
