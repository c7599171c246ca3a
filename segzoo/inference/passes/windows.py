"""Weighted averages of sliding windows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.inference.passes.score_rows import Rows
from segzoo.inference.protocol import InferenceProtocol

GAUSSIAN_SIGMA = 1 / 8  # standard deviation of Gaussian weights, as a fraction of the window


def window_starts(size: int, crop: int, step: int) -> list[int]:
    """Compute the window offsets along one axis.

    Windows start every ``step`` pixels, and the last one is moved back to end at the image border. All values are in pixels.
    """
    count = max(0, math.ceil((size - crop) / step)) + 1
    return [max(0, min(index * step, size - crop)) for index in range(count)]


def window_weights(crop: tuple[int, int], kind: str, device: torch.device) -> Tensor:
    """Weights of the pixels of a window, all above 0.

    Args:
        crop: height and width of the window.
        kind: ``uniform`` or ``gaussian``.
        device: the device of the result.

    Shapes:
        -> (*crop)
    """
    if kind == "uniform":
        return torch.ones(crop, device=device)
    height, width = (
        torch.exp(-0.5 * ((torch.arange(side) - (side - 1) / 2) / (side * GAUSSIAN_SIGMA)) ** 2).to(device) for side in crop
    )
    return height[:, None] * width


class Windows:
    """Average scores of overlapping windows, from the top of the image down.

    The network runs when the rows of a window are first needed, and its logits are dropped below the window. So those of about two
    rows of windows exist at a time. An image smaller than the window is padded with the mean color.

    Args:
        run: a batch of windows (N, 3, *crop) -> the scores of each.
        image: rows of the normalized image.
        size: height and width of the image.
        protocol: provides size, stride, weights and batch of the windows.
        device: the device of the image.
    """

    def __init__(
        self,
        run: Callable[[Tensor], list[Rows]],
        image: Rows,
        size: tuple[int, int],
        protocol: InferenceProtocol,
        device: torch.device,
    ):
        self.run, self.image, self.size, self.batch = run, image, size, protocol.batch
        self.crop = protocol.crop or size
        self.padded = max(size[0], self.crop[0]), max(size[1], self.crop[1])
        self.weights = window_weights(self.crop, protocol.window_weights, device)
        tops, lefts = (window_starts(*axis) for axis in zip(self.padded, self.crop, protocol.step, strict=True))
        self._waiting = deque((top, left) for top in tops for left in lefts)
        self._done: list[tuple[int, int, Rows]] = []
        self._strip: tuple[int, Tensor] | None = None  # first row and image rows of the windows that are cut out

    def __call__(self, first: int, end: int) -> Tensor:
        """Return the scores (K, end - first, W) of some rows.

        Rows must not lie above those of earlier calls.
        """
        while self._waiting and self._waiting[0][0] < end:
            self._run_batch()
        self._strip = None  # the next windows may be many rows away
        self._done = [window for window in self._done if window[0] + self.crop[0] > first]
        total, weight = None, self.weights.new_zeros(end - first, self.padded[1])
        for top, left, rows in self._done:
            start, stop = max(first, top), min(end, top + self.crop[0])
            if start >= stop:
                continue
            scores, here = rows(start - top, stop - top), self.weights[start - top : stop - top]
            if total is None:
                total = scores.new_zeros(len(scores), *weight.shape)
            columns = slice(left, left + self.crop[1])
            total[:, start - first : stop - first, columns] += scores * here
            weight[start - first : stop - first, columns] += here
        assert total is not None, f"no window covers rows {first} to {end}"
        return total.div_(weight)[..., : self.size[1]]

    def _run_batch(self) -> None:
        """Run the network on the next windows."""
        places = [self._waiting.popleft() for _ in range(min(self.batch, len(self._waiting)))]
        windows = torch.stack([self._cut(top, left) for top, left in places])
        self._done += [(*place, rows) for place, rows in zip(places, self.run(windows), strict=True)]

    def _cut(self, top: int, left: int) -> Tensor:
        """Cut a window (3, *crop) out of the image."""
        if self._strip is None or self._strip[0] != top:
            strip = self.image(top, min(top + self.crop[0], self.size[0]))
            right, bottom = self.padded[1] - self.size[1], self.crop[0] - strip.shape[1]
            padded = F.pad(strip, (0, right, 0, bottom)) if right or bottom else strip  # 0 is the mean color after normalization
            self._strip = top, padded
        return self._strip[1][..., left : left + self.crop[1]]
