"""Decoded samples in memory-mapped files.

Each sample is written once, by the process that reads it first, and shared by all processes and later runs. Only the pixels that a crop
needs are read.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL

from segzoo.data.checks.label_survey import LabelReader
from segzoo.data.file_index import FilePair
from segzoo.io import user_cache_dir, write_atomically
from segzoo.pixel_format import RGB, PixelFormat
from segzoo.system_errors import DISK_ADVICE
from segzoo.types import DataError, Sample

MAGIC = b"segzoo 1"  # begins each file; rises with its layout and with changes of how files are decoded
HEADER = struct.Struct("<8sIIII")  # magic, height, width, bytes per train id, CRC-32 of the pixels


class DiskCache:
    """Cache of the decoded samples of one data set.

    A file is found by the names, sizes and modification times of image and label, the settings of the label reader, and the versions of
    NumPy and Pillow. The checksum of each file is verified when a process first reads it; a damaged file is written again.

    Args:
        reader: reads the label files.
        pixels: channels and bits of the images.
        folder: where the files are kept; None means ``~/.cache/segzoo/samples``, or below ``XDG_CACHE_HOME``.
    """

    def __init__(self, reader: LabelReader, pixels: PixelFormat = RGB, folder: Path | None = None):
        self._folder = folder or user_cache_dir() / "samples"
        self._pixels = pixels
        form = () if pixels.is_rgb else tuple(pixels)
        self._key = hashlib.sha256(pickle.dumps((MAGIC, np.__version__, PIL.__version__, reader, *form))).digest()
        self._verified: set[Path] = set()

    def read(self, pair: FilePair, decode: Callable[[], Sample]) -> Sample:
        """Read a sample from the cache, or decode and cache it.

        Args:
            pair: image and label file, and the name of the sample.
            decode: reads the sample from its files.

        Returns:
            The sample. Changes of its arrays do not reach the file.

        Raises:
            DataError: the file cannot be written, or what ``decode`` raises.
        """
        try:
            path = self._path(pair)
        except OSError:  # a file is missing, which decoding reports
            return decode()
        arrays = self._open(path)
        if arrays is None:
            sample = decode()
            self._write(path, sample)
            return sample
        return Sample(*arrays, pair.name)

    def _path(self, pair: FilePair) -> Path:
        digest = hashlib.sha256(self._key)
        for file in (*pair.images, pair.label):
            if file is not None:
                status = os.stat(file)
                digest.update(os.fsencode(os.path.abspath(file)) + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        name = digest.hexdigest()[:40]
        return self._folder / name[:2] / f"{name[2:]}.bin"

    def _open(self, path: Path) -> tuple[np.ndarray, np.ndarray] | None:
        """Map a file into memory.

        Returns:
            Image (H, W, C) and label (H, W), or None if the file is missing, damaged or cannot be read.
        """
        try:
            with open(path, "rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # writable in memory only
        except (OSError, ValueError):  # it does not exist, is another user's, or empty, and cannot be mapped
            return None
        if len(content) < HEADER.size:
            return None
        magic, height, width, item, checksum = HEADER.unpack_from(content)
        pixels = height * width
        if magic != MAGIC or item not in (1, 2) or len(content) != HEADER.size + pixels * (self._pixels.num_bytes + item):
            return None
        if path not in self._verified:
            if zlib.crc32(memoryview(content)[HEADER.size :]) != checksum:
                return None
            self._verified.add(path)
        channels = self._pixels.channels
        image = np.frombuffer(content, self._pixels.dtype, channels * pixels, HEADER.size).reshape(height, width, channels)
        label = np.frombuffer(content, np.uint8 if item == 1 else np.uint16, pixels, HEADER.size + self._pixels.num_bytes * pixels)
        return image, label.reshape(height, width)

    def _write(self, path: Path, sample: Sample) -> None:
        height, width = sample.label.shape
        image, label = np.ascontiguousarray(sample.image), np.ascontiguousarray(sample.label)
        checksum = zlib.crc32(label.data, zlib.crc32(image.data))
        header = HEADER.pack(MAGIC, height, width, label.itemsize, checksum)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.writelines((header, image.data, label.data)), durable=False)
        except OSError as error:
            raise DataError(
                f"data.cache=disk: {path} cannot be written: {error.strerror}. {DISK_ADVICE.get(error.errno or 0, 'Check the folder.')} "
                "XDG_CACHE_HOME chooses the folder, and data.cache=none needs none."
            ) from error
        self._verified.add(path)
