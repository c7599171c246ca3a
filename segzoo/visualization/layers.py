"""Small images and label maps, to be laid over each other."""

from __future__ import annotations

import numpy as np
from PIL import Image

from segzoo.types import DatasetInfo
from segzoo.visualization.drawing import IGNORED, colorize

MIN_COVER = 0.1  # part of a pixel that a rarer class needs to show in it

Size = tuple[int, int]  # (H, W)


def page_size(size: Size, max_pixels: int) -> Size:
    """Size (H, W) of an image with at most ``max_pixels``.

    The shape is kept, and small images are not enlarged.
    """
    scale = min(1.0, (max_pixels / (size[0] * size[1])) ** 0.5)
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def downscale_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Downscale an image (H, W, 3) uint8 to (H, W) = ``size``."""
    import cv2

    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def downscale_label(label: np.ndarray, size: Size) -> np.ndarray:
    """Downscale a label map and keep small blobs visible.

    A pixel takes the rarest class of those that cover a tenth of it.

    Shapes:
        (H, W) -> size
    """
    import cv2

    if label.shape == size:
        return label
    values, counts = np.unique(label, return_counts=True)
    small = np.full(size, values[counts.argmax()], label.dtype)
    for value in values[np.argsort(-counts, kind="stable")][1:]:
        cover = cv2.resize((label == value).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        small[cover >= MIN_COVER] = value
    return small


def label_layer(label: np.ndarray, info: DatasetInfo) -> Image.Image:
    """Draw a label map in the colors of its classes.

    The background class is transparent, and ignored pixels are white. Up to 255 classes, the image has a palette.

    Args:
        label: (H, W) train ids.
        info: classes and palette.
    """
    ids = np.where(label == info.ignore, info.num_classes, label) if info.num_classes <= info.ignore else label
    if info.num_classes > 255:
        alpha = np.full(label.shape, 255, np.uint8) if info.background is None else np.uint8(255) * (label != info.background)
        return Image.fromarray(np.dstack([colorize(ids, info.palette), alpha]))
    layer = Image.frombytes("P", label.shape[::-1], ids.astype(np.uint8).tobytes())
    layer.putpalette([channel for color in (*info.palette, IGNORED) for channel in color])
    if info.background is not None:
        layer.info["transparency"] = info.background
    return layer
