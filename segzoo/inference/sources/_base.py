"""Interface of all sources of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segzoo.inference.large.reader import LargeImage
from segzoo.types import DataError


class SourceEnded(DataError):
    """Premature end of a source, after which there is no further image."""


class Item(NamedTuple):
    """An image that can be read.

    Attributes:
        name: unique name of its results, a relative path without a suffix.
        origin: where it is from, for messages.
        read: returns the image (H, W, C), or opens one that is too large to hold, or returns None after the last frame of a video. It raises DataError if it cannot be read, and
            SourceEnded if no later one can be read either.
        path: its file; None for a frame.
    """

    name: str
    origin: str
    read: Callable[[], np.ndarray | LargeImage | None]
    path: Path | None = None


def nothing_to_close() -> None:
    """Release no resource.

    A named function, since rank 0 sends the images of a folder to the others.
    """


@dataclass(frozen=True)
class Source:
    """Images in a fixed order.

    Attributes:
        items: the images.
        total: their number; None if it is unknown.
        skipped: sentences about files that were left out.
        is_sequence: images can only be read one after the other, as the frames of a video.
        is_live: there is no last image, so an interruption is the usual end.
        fps: frames per second of a video.
        close: releases the source.
    """

    items: Iterable[Item]
    total: int | None
    skipped: list[str]
    is_sequence: bool = False
    is_live: bool = False
    fps: float | None = None
    close: Callable[[], None] = nothing_to_close
