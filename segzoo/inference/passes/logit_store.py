"""Logits that wait for their use, in memory or in a file."""

from __future__ import annotations

import math
import tempfile
import weakref
from collections import defaultdict
from typing import BinaryIO

import torch
from torch import Tensor

from segzoo.inference.passes.score_rows import Rows, stored

MAX_KEPT = 2**24  # logits that stay in memory on a CPU, 64 MiB in fp32
CHUNK = 64  # rows that are written at once


class LogitStore:
    """Logits of all passes over an image, until their rows are needed.

    The first ones stay in memory. Those beyond the limit wait in a temporary file, with the same values, so that memory depends neither
    on the number of scales nor on that of windows. The file is much faster than the passes on a CPU, and small for few classes.

    Args:
        limit: number of values that stay in memory. The first logits do in any case.
    """

    def __init__(self, limit: int):
        self.limit, self.kept = limit, 0
        self._file: BinaryIO | None = None
        self._bytes = 0  # of the file
        self._unused: dict[int, list[int]] = defaultdict(list)  # offsets in the file, by the bytes that fit there

    def keep(self, logits: Tensor) -> Rows:
        """Keep logits (K, h, w) for as long as the result exists."""
        count = logits.numel()
        if self.kept and self.kept + count > self.limit:
            return self._write(logits)
        self.kept += count
        rows = stored(logits)
        weakref.finalize(rows, self._forget, count)
        return rows

    def _forget(self, count: int) -> None:
        self.kept -= count

    def _write(self, logits: Tensor) -> Rows:
        """Write logits to the file, row after row.

        The order of their other axes in memory is kept, since it decides how they are upsampled and thus rounded.
        """
        channels_last, device = logits.stride(0) == 1, logits.device
        values = logits.permute(1, 2, 0) if channels_last else logits.permute(1, 0, 2)
        shape, row_bytes = values.shape[1:], 4 * values[0].numel()
        size = len(values) * row_bytes
        if not self._unused[size]:
            self._unused[size].append(self._bytes)
            self._bytes += size
        offset = self._unused[size].pop()
        try:
            file = self._file = self._file or tempfile.TemporaryFile(prefix="segzoo-")  # noqa: SIM115  # closed with the store
            file.seek(offset)
            for chunk in values.split(CHUNK):
                file.write(chunk.float().contiguous().cpu().numpy().data)
        except OSError as error:
            place = f"the logits of this image take {self._bytes / 1e9:.1f} GB in a temporary file in {tempfile.gettempdir()}"
            raise OSError(error.errno, f"{place}: {error.strerror}. Set TMPDIR to a folder with more space") from error

        def rows(first: int, end: int) -> Tensor:
            read = torch.empty(end - first, *shape)
            file.seek(offset + first * row_bytes)
            file.readinto(read.numpy())  # type: ignore[attr-defined]
            return (read.permute(2, 0, 1) if channels_last else read.permute(1, 0, 2)).to(device)

        weakref.finalize(rows, self._unused[size].append, offset)
        return rows


def make_store(num_classes: int, size: tuple[int, int], device: torch.device) -> LogitStore:
    """Create a store for the passes over an image of a size.

    The passes of a GPU are faster than a file, so it keeps twice the scores of all pixels.
    """
    return LogitStore(MAX_KEPT if device.type == "cpu" else max(MAX_KEPT, 2 * num_classes * math.prod(size)))
