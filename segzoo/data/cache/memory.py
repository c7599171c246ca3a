"""Decoded samples in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from segzoo.data.channels.reading import read_size
from segzoo.data.file_index import FilePair
from segzoo.pixel_format import PixelFormat
from segzoo.progress import with_progress
from segzoo.resources import available_memory, cpu_cores
from segzoo.types import DataError, Sample

MAX_FRACTION = 0.8  # of the available memory


def read_all(pairs: Sequence[FilePair], decode: Callable[[FilePair], Sample], pixels: PixelFormat) -> list[Sample]:
    """Decode all samples of a split with every core.

    Processes forked afterwards share them.

    Args:
        pairs: the files.
        decode: reads one sample.
        pixels: channels and bits of the images.

    Raises:
        DataError: the samples need more memory than is available, or what ``decode`` raises.
    """
    with ThreadPoolExecutor(cpu_cores()) as pool:
        sizes = pool.map(lambda pair: read_size(pair.image)[0], pairs)
        pixel_bytes = pixels.num_bytes + 1  # with a label
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each reads its own copy
        needed, available = sum(pixel_bytes * height * width for height, width in sizes), available_memory(ranks)
        if available is not None and needed > MAX_FRACTION * available:
            raise DataError(
                f"data.cache=ram needs {needed / 1e9:.1f} GB for {len(pairs)} decoded images, and {available / 1e9:.1f} GB of memory are "
                "available. Set data.cache=disk, which reads only what each crop needs."
            )
        return list(with_progress(pool.map(decode, pairs), len(pairs), "images", "reading into memory"))
