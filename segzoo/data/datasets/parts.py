"""Synthetic data set of precision parts on a conveyor belt.

It is a small visual inspection task: similar classes (nut, washer, bushing; screw, pin), piles, uneven illumination, and scratches and
dents of two to five percent of the pixels. Images are rendered without any file and are identical bit for bit in every process and on
every processor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np

from segzoo.data.cache.shared import SharedArrays
from segzoo.data.synthetic.scene import Scene, render_scene
from segzoo.messages import unknown_name_error
from segzoo.registry import DATA, ConfigError, Range, Seed
from segzoo.types import DatasetInfo, Sample

SPLITS = ("train", "val")
MEAN, STD = (58.8, 58.8, 58.8), (48.9, 48.9, 48.9)  # over the 320 training images at the default settings
INFO = DatasetInfo(
    name="parts",
    classes=("belt", "nut", "washer", "screw", "pin", "bushing", "scratch", "dent"),
    palette=(
        (46, 52, 64),
        (66, 133, 244),
        (38, 198, 166),
        (250, 180, 20),
        (160, 90, 200),
        (130, 200, 90),
        (244, 67, 54),
        (255, 145, 215),
    ),
    mean=MEAN,
    std=STD,
)


class PartsDataset:
    """Synthetic images rendered on demand.

    Image ``index`` depends only on (seed, split, index) and the scene settings.

    Attributes:
        info: the dataset info, available without rendering an image.
    """

    def __init__(
        self, info: DatasetInfo, split: str, images: int, size: tuple[int, int], objects: tuple[int, int], seed: int, cache: bool
    ):
        self.info = info
        self.split, self.images, self.size, self.objects, self.seed = split, images, size, objects, seed
        try:
            self._cache = SharedArrays(images, (len(Scene._fields), *size)) if cache else None
        except OSError:
            raise ConfigError(
                f"data.cache=true: {images:,} rendered images need {3e-9 * images * size[0] * size[1]:,.0f} GB, which is more than the memory of "
                "this machine. Set data.cache=false."
            ) from None

    def __len__(self) -> int:
        return self.images

    def scan(self) -> None:
        """Do nothing, since there is no file to find."""

    def __getitem__(self, index: int) -> Sample:
        """Sample with image (H, W, 3) uint8 and label (H, W) uint8.

        The three channels are equal. The arrays are copies.
        """
        scene = self.scene(index)
        return Sample(np.repeat(scene.gray[..., None], 3, axis=2), scene.label.copy(), self.name(index))

    def image(self, index: int) -> np.ndarray:
        """Image (H, W, 3) uint8 of a sample."""
        return self[index].image

    def name(self, index: int) -> str:
        """Split and index, such as ``train_00012``."""
        return f"{self.split}_{index:05d}"

    def scene(self, index: int) -> Scene:
        """Rendered scene, which also has the part under every defect.

        The arrays may be cached, so do not modify them.

        Raises:
            IndexError: ``index`` is not in 0..len-1.
        """
        if not 0 <= index < self.images:
            raise IndexError(f"image {index} of parts/{self.split} does not exist: there are {self.images}, numbered from 0")
        if self._cache is not None and (arrays := self._cache.get(index)) is not None:
            return Scene(*arrays)
        entropy = np.random.SeedSequence([self.seed, SPLITS.index(self.split), int(index)])
        scene = render_scene(np.random.Generator(np.random.PCG64(entropy)), *self.size, self.objects)
        if self._cache is not None:
            self._cache.put(index, scene)
        return scene


@DATA.register
def parts(
    split: str,
    *,
    height: Annotated[int, Range(64, 4096)] = 256,
    width: Annotated[int, Range(64, 4096)] = 320,
    train_images: Annotated[int, Range(1, 10**7)] = 320,
    val_images: Annotated[int, Range(1, 10**7)] = 80,
    objects: Annotated[tuple[int, int], Range(1, 100)] = (3, 5),
    seed: Seed = 0,
    cache: bool = True,
    mean: Annotated[tuple[float, float, float], Range(0, 255)] = MEAN,
    std: Annotated[tuple[float, float, float], Range(0, 255, above=True)] = STD,
) -> PartsDataset:
    """Synthetic grayscale images of machine parts with scratches and dents.

    The eight classes are the belt, five kinds of parts (nut, washer, screw, pin, bushing) and two kinds of defects.

    Args:
        split: ``train`` or ``val``; the two share no image.
        height: image height in pixels. A larger image shows the same scene in finer detail.
        width: image width in pixels.
        train_images: number of training images.
        val_images: number of validation images.
        objects: minimum and maximum number of parts per image.
        seed: random seed; each seed gives different images.
        cache: keep rendered images in memory (3 bytes per pixel, which all loading processes share). Rendering takes 15 to 40 ms per image.
        mean, std: RGB statistics on the 0..255 scale.

    Raises:
        ConfigError: the split is unknown, the minimum number of objects is above the maximum, or the cache is larger than the memory.
    """
    if split not in SPLITS:
        raise ConfigError(unknown_name_error("split", split, SPLITS))
    if objects[0] > objects[1]:
        raise ConfigError(f"data.objects={list(objects)}: the minimum comes first; use [{objects[1]}, {objects[0]}].")
    images = train_images if split == "train" else val_images
    return PartsDataset(replace(INFO, mean=mean, std=std), split, images, (height, width), objects, seed, cache)
