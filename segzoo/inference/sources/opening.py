"""Choice of a source by its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np

from segzoo.channel_files import channel_files, is_further_file
from segzoo.data.channels.reading import image_suffixes, read_pixels
from segzoo.image_decoder import MAX_PIXELS, ImageError
from segzoo.inference.large.reader import read_or_open
from segzoo.inference.sources._base import Source
from segzoo.inference.sources.embedded import embedded_images
from segzoo.inference.sources.image_files import ALL_SUFFIXES, Read, find_images, listed_images
from segzoo.inference.sources.kinds import source_kind, without_credentials
from segzoo.inference.sources.path_lists import read_path_list
from segzoo.inference.sources.videos import open_video
from segzoo.messages import printable
from segzoo.pixel_format import RGB, PixelFormat
from segzoo.registry import ConfigError, Range
from segzoo.types import DataError


def open_source(
    out: Path,
    resumed: bool = False,
    pixels: PixelFormat = RGB,
    patterns: Sequence[str] = (),
    *,
    source: str | int,
    recursive: bool = True,
    stream_megapixels: Annotated[float, Range(0, 1_000_000, above=True)] = 100,
    max_megapixels: Annotated[int, Range(1, 1_000_000)] = 2000,
    every: Annotated[int, Range(1, 1_000_000)] = 1,
    max_frames: Annotated[int, Range(1, 10**9)] | None = None,
) -> Source:
    """Open the images of a source.

    Args:
        out, resumed: the output directory, and whether it holds results of the same prediction.
        pixels: channels and bits of the images that the network takes.
        patterns: those of ``data.images`` if the channels of an image are in several files. The first stands for the image.
        source: an image, a folder or a quoted pattern, see ``find_images``; a ``.txt`` file of paths, or ``-`` for paths on standard
            input; ``parts`` for some images of that data set; a video file; the number of a camera; or the address of a stream.
        recursive: also search the folders in a folder.
        stream_megapixels: images of more pixels are labeled while they are read, in strips of rows.
        max_megapixels: images of more pixels are rejected, since a small file may state any size.
        every: take each n-th frame of a video, a camera or a stream.
        max_frames: end after this many of them. None takes all.

    Raises:
        ConfigError: there is no image, the source cannot be opened or has other pixels, or a result would overwrite a file.
    """
    kind = source_kind(source)
    is_rgb = pixels.is_rgb and len(patterns) < 2
    if kind not in ("images", "list") and not is_rgb:
        raise ConfigError(
            f"source={without_credentials(str(source))}: its images are 8-bit RGB, and this network takes {pixels}. Give files with these "
            "channels, such as .npy (H, W, C) or a TIFF with one channel on each page."
        )
    read: Read = partial(read_or_open, stream_megapixels=stream_megapixels, max_megapixels=max_megapixels)
    if not is_rgb:
        read = partial(_read_whole, pixels=pixels, patterns=patterns, max_megapixels=max_megapixels)
    if kind == "images":
        found = find_images(str(source), out, resumed, recursive, read, ALL_SUFFIXES if is_rgb else image_suffixes(pixels))
        return found if is_rgb else _without_further_files(found, str(source), patterns)
    if kind == "embedded":
        return embedded_images()
    if kind == "list":
        return listed_images(read_path_list(str(source)), out, resumed, read)
    return open_video(source, out, every=every, max_frames=max_frames)


def _read_whole(path: Path, pixels: PixelFormat, patterns: Sequence[str], max_megapixels: int) -> np.ndarray:
    """Read an image of other pixels than 8-bit RGB, at once."""
    try:
        files = channel_files(path, patterns)
    except ImageError as error:
        raise DataError(f"{printable(path)}: {error}") from error
    return read_pixels(files, pixels, min(MAX_PIXELS, max_megapixels * 1_000_000))[0]


def _without_further_files(source: Source, given: str, patterns: Sequence[str]) -> Source:
    """Leave out files with channels of images that other files stand for."""
    items = [item for item in source.items if item.path is None or not is_further_file(item.path, patterns)]
    if source.items and not items:
        raise ConfigError(
            f"source={given} holds further channels of images only. Give the files of the first pattern, {patterns[0]}."
        )
    return replace(source, items=items, total=len(items))
