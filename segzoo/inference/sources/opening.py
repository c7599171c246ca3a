"""Choice of a source by its text."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from segzoo.inference.large.reader import read_or_open
from segzoo.inference.sources._base import Source
from segzoo.inference.sources.embedded import embedded_images
from segzoo.inference.sources.image_files import find_images, listed_images
from segzoo.inference.sources.kinds import source_kind
from segzoo.inference.sources.path_lists import read_path_list
from segzoo.inference.sources.videos import open_video
from segzoo.registry import Range


def open_source(
    out: Path,
    resumed: bool = False,
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
        source: an image, a folder or a quoted pattern, see ``find_images``; a ``.txt`` file of paths, or ``-`` for paths on standard
            input; ``parts`` for some images of that data set; a video file; the number of a camera; or the address of a stream.
        recursive: also search the folders in a folder.
        stream_megapixels: images of more pixels are labeled while they are read, in strips of rows.
        max_megapixels: images of more pixels are rejected, since a small file may state any size.
        every: take each n-th frame of a video, a camera or a stream.
        max_frames: end after this many of them. None takes all.

    Raises:
        ConfigError: there is no image, the source cannot be opened, or a result would overwrite a file.
    """
    kind = source_kind(source)
    read = partial(read_or_open, stream_megapixels=stream_megapixels, max_megapixels=max_megapixels)
    if kind == "images":
        return find_images(str(source), out, resumed, recursive, read)
    if kind == "embedded":
        return embedded_images()
    if kind == "list":
        return listed_images(read_path_list(str(source)), out, resumed, read)
    return open_video(source, out, every=every, max_frames=max_frames)
