"""Choice of the images that a network is compared or timed on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from segzoo.channel_files import channel_files, is_further_file
from segzoo.image_decoder import ImageError
from segzoo.messages import printable
from segzoo.pixel_format import PixelFormat
from segzoo.registry import DATA, ConfigError
from segzoo.types import DataError, Dataset, Images

if TYPE_CHECKING:
    import numpy as np


class ChosenImages(NamedTuple):
    """Images and a title that says where they are from."""

    images: Images
    title: str


class ImageFiles:
    """Images in files, read when they are needed."""

    def __init__(self, paths: list[Path], pixels: PixelFormat, patterns: Sequence[str] = ()):
        self.paths = [path for path in paths if not is_further_file(path, patterns)]
        self.pixels, self.patterns = pixels, patterns

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> np.ndarray:
        """Image (H, W, C) of a file."""
        from segzoo.data.channels.reading import read_pixels

        path = self.paths[index]
        try:
            files = channel_files(path, self.patterns)
        except ImageError as error:
            raise DataError(f"{printable(path)}: {error}") from error
        return read_pixels(files, self.pixels)[0]


class GeneratedImages:
    """Gray images of the embedded data set with any channels."""

    def __init__(self, pixels: PixelFormat):
        self.dataset, self.pixels = DATA.build("parts", "val"), pixels

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> np.ndarray:
        """Image (H, W, C), whose channels are equal."""
        gray = self.dataset.image(index)[..., :1]
        return gray.repeat(self.pixels.channels, axis=2).astype(self.pixels.dtype) * (self.pixels.largest // 255)


def choose_images(dataset: Dataset, is_given: bool, patterns: Sequence[str] = (), *, images: str | None = None) -> ChosenImages:
    """Take images from files, from a data set, or else generated ones.

    No label is read. Generated images replace only those of a checkpoint's own data set, which may be on another machine. A line says so.

    Args:
        dataset: the validation split of the data set.
        is_given: whether the command line sets the data set. Its errors are then raised.
        patterns: those of ``data.images`` if the channels of an image are in several files.
        images: an image, a folder or a quoted glob pattern. None takes the images of the data set.

    Raises:
        ConfigError: ``images`` contains no image.
        DataError: the data set is given and cannot be read.
    """
    if images is not None:
        from segzoo.data.channels.reading import image_suffixes
        from segzoo.inference.sources.image_files import find_image_files

        pixels = dataset.info.pixels
        files = find_image_files(images, suffixes=image_suffixes(pixels), setting="images")[0]
        chosen = ImageFiles(files, pixels, patterns)
        if not chosen.paths:
            raise ConfigError(f"images={images} holds further channels of images only. Give the files of {patterns[0]}.")
        return ChosenImages(chosen, images)
    try:
        len(dataset)  # finds the files
    except DataError as error:
        if is_given:
            raise
        reason = str(error).split(". ")[0]
        print(f"images: generated ones, since {reason}. Set images=<folder> to use your own.", flush=True)
        return ChosenImages(GeneratedImages(dataset.info.pixels), "generated parts")
    return ChosenImages(dataset, dataset.info.name)
