"""Dropout that draws its mask quickly on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BITS = 16  # random bits per element


class Dropout(nn.Dropout):
    """Dropout of single elements (Srivastava et al., JMLR 2014).

    On a CPU, PyTorch draws one random number per element. Here one number of 64 bits decides four elements, in a fifth of the time. The probability is rounded to 16 bits, and the scale of the kept elements is the exact inverse
    of the rounded one. On other devices, and in compiled networks, this is PyTorch's dropout.
    """

    def forward(self, x: Tensor) -> Tensor:
        threshold = round(self.p * 2**BITS)
        if not self.training or x.device.type != "cpu" or threshold in (0, 2**BITS) or torch.compiler.is_compiling():
            return super().forward(x)
        return x * _random_mask(x, threshold) * (2**BITS / (2**BITS - threshold))


def _random_mask(x: Tensor, threshold: int) -> Tensor:
    """A random bool tensor in the memory order of x.

    Its elements are False with a probability of threshold / 65536.
    """
    numbers = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    mask = numbers.view(torch.int16)[: x.numel()] >= threshold - 2 ** (BITS - 1)
    return mask.as_strided(x.shape, torch.empty_like(x, device="meta").stride())
