"""Images as Python users have them, read into upright arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segzoo.data.channels.reading import read_pixels
from segzoo.image_decoder import ImageError, decode, gray_to_rgb, to_rgb, turn_decoded
from segzoo.messages import printable
from segzoo.pixel_format import RGB, PixelFormat

BATCH_PIXELS = 2**22  # of its images together: 8 images of 512 x 1024
SAMPLE_MODES = ("L", "LA", "I;16", "I;16B", "RGB", "RGBA")  # of Pillow images that hold channels as they are
MAX_BATCH = 16  # images of one batch, unless its size is given

ImageInput = np.ndarray | Tensor | Image.Image | str | os.PathLike[str]


def batch_limit(height: int, width: int) -> int:
    """Largest batch of images of that size, if none is set."""
    return max(1, min(MAX_BATCH, BATCH_PIXELS // (height * width)))


class InputImage(NamedTuple):
    """An image to segment.

    Attributes:
        position: its position in the list of images.
        name: the path, or ``images[<position>]``, for messages.
        path: the path, None for an image that was not read from a file.
        pixels: (H, W, C) uint8 or uint16.
    """

    position: int
    name: str
    path: Path | None
    pixels: np.ndarray


def batches(images: Sequence[ImageInput], batch_size: int | None, form: PixelFormat = RGB) -> Iterator[list[InputImage]]:
    """Read images and group those of one size.

    At most a batch of each size is in memory.

    Args:
        images: the images, in any order.
        batch_size: images per batch. None takes as many as have ``BATCH_PIXELS`` together, at most ``MAX_BATCH``.
        form: channels and bits of the images.

    Raises:
        ValueError: as ``read_input``.
    """
    waiting: dict[tuple[int, int], list[InputImage]] = {}
    for position, given in enumerate(images):
        path = Path(given) if isinstance(given, str | os.PathLike) else None
        name = printable(path) if path else "image" if len(images) == 1 else f"images[{position}]"
        pixels = read_input(given, name, form)
        height, width = pixels.shape[:2]
        batch = waiting.setdefault((height, width), [])
        batch.append(InputImage(position, name, path, pixels))
        if len(batch) == (batch_size or batch_limit(height, width)):
            yield waiting.pop((height, width))
    yield from waiting.values()


def read_input(given: ImageInput, name: str = "image", form: PixelFormat = RGB) -> np.ndarray:
    """Read an image as (H, W, C) uint8 or uint16.

    Args:
        given: as ``Segmenter.predict`` takes it.
        name: its name in messages.
        form: its channels and bits.

    Raises:
        DataError: the file cannot be read as an image.
        ValueError: the array or the object is not such an image. The message says how to convert it.
    """
    if isinstance(given, str | os.PathLike):
        path = os.fspath(given)
        if os.path.isdir(path):
            raise ValueError(
                f"{printable(path)} is a folder, expected an image. Pass a list of its images, such as "
                f"sorted(pathlib.Path({path!r}).glob('*.png'))"
            )
        return read_pixels([Path(path)], form)[0]
    if isinstance(given, Image.Image) and not form.is_rgb:
        given = _stored_samples(given, name)
    if isinstance(given, Image.Image):
        try:
            orientation = decode(given)  # type: ignore[arg-type]  # an image without a file is decoded already
            opaque = given.copy() if "transparency" in given.info else given  # its info is changed
            return turn_decoded(given, to_rgb(opaque), orientation)
        except ImageError as error:
            raise ValueError(f"{name}: {error}") from None
    if isinstance(given, Tensor):
        values = given.detach().cpu()
        array = values.float().numpy() if values.is_floating_point() else values.numpy()
        if array.dtype == form.dtype and array.ndim == 3 and array.shape[0] == form.channels != array.shape[2]:
            array = array.transpose(1, 2, 0)
        return _check_array(array, name, f"a tensor of {given.dtype}".replace("torch.", ""), form)
    if isinstance(given, np.ndarray):
        return _check_array(given, name, f"an array of {given.dtype}", form)
    raise ValueError(
        f"{name} is a {type(given).__name__}, expected a path, an array {_expected(form)}, a tensor, a Pillow image, or a list of them"
    )


def _stored_samples(image: Image.Image, name: str) -> np.ndarray:
    """Samples of an image as they are stored, upright."""
    if image.mode not in SAMPLE_MODES:
        raise ValueError(f"{name} is a Pillow image of mode {image.mode}, expected one of {', '.join(SAMPLE_MODES)}. Convert it")
    try:
        orientation = decode(image)  # type: ignore[arg-type]  # an image without a file is decoded already
    except ImageError as error:
        raise ValueError(f"{name}: {error}") from None
    return turn_decoded(image, np.asarray(image), orientation)


def _check_array(array: np.ndarray, name: str, kind: str, form: PixelFormat) -> np.ndarray:
    """Copy an array to contiguous channels, or reject it.

    The caller may fill its buffer with the next image.
    """
    if array.dtype == form.dtype and array.size:
        if array.ndim == 2 and form.is_rgb:
            return gray_to_rgb(array)
        if array.ndim == 2 and form.channels == 1:
            return np.array(array[..., None], order="C")
        if array.ndim == 3 and array.shape[2] == form.channels:
            return np.array(array, order="C")
    hint = (_shape_hint(array.shape) or _value_hint(array)) if form.is_rgb else "the network was trained on such images"
    raise ValueError(f"{name} is {kind} {array.shape}, expected {_expected(form)}: {hint}")


def _expected(form: PixelFormat) -> str:
    return f"(H, W, {form.channels}) {form.dtype}{' RGB' if form.is_rgb else ''}"


def _shape_hint(shape: tuple[int, ...]) -> str:
    """Say how an array of another shape becomes an image."""
    if 0 in shape:
        return "it is empty"
    if len(shape) == 4:
        return "pass list(images) for a batch"
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3):
        return ""
    if len(shape) == 3 and shape[2] == 4:
        return "drop the alpha channel with image[..., :3]"
    if len(shape) == 3 and shape[2] == 1:
        return "pass the gray image as image[..., 0]"
    if len(shape) == 3 and shape[0] == 3:
        return "move the channels with image.transpose(1, 2, 0), or image.permute(1, 2, 0) for a tensor"
    return "an image has three channels, or is gray (H, W)"


def _value_hint(array: np.ndarray) -> str:
    """Say how other values become bytes."""
    if array.dtype.kind not in "buif":
        return "its values are not numbers"
    low, high = float(array.min()), float(array.max())
    found = f"it has values from {low:g} to {high:g}"
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return f"{found}, so convert (image * 255).round() to uint8"
    if low >= 0 and high <= 255:
        return f"{found}, so convert it to uint8"
    if array.dtype == np.uint16:
        return f"{found}, so convert image >> 8 to uint8"
    return (
        f"{found}, so pass the image before its normalization. Normalized tensors (N, 3, H, W) go to model(x), which returns logits"
    )


def to_tensor(batch: Sequence[InputImage]) -> Tensor:
    """Stack images of one size.

    Shapes:
        -> (N, H, W, C)
    """
    return torch.from_numpy(np.stack([image.pixels for image in batch]))
