"""Losses at label size without the full-size logits: strip by strip, each strip's gradient taken at once.

Growing 150 classes to 512x512 and back-propagating through it keeps several (N, K, H, W) copies alive. Here a strip of rows is grown,
scored and differentiated before the next one, and only the gradient of the small logits stays. Growing is two matrix products, which give
the same numbers as bilinear interpolation, are faster on a CPU, and avoid its backward pass, which is not deterministic on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from segzoo.layers.resize import bilinear_matrix

PixelScore = Callable[[Tensor, Tensor], Tensor]  # logits (N, K, r, W), label (N, r, W) -> score of each pixel (N, r, W)
CPU_ELEMENTS, DEVICE_ELEMENTS = 2**21, 2**24  # of the grown logits alive at a time: 8 MiB a copy is fastest on a CPU


def upsample_in_chunks(logits: Tensor, size: Sequence[int], align_corners: bool) -> Iterator[tuple[slice, Tensor]]:
    """Bilinearly grown logits in strips: (rows, logits of these rows), (N, K, h, w) -> (N, K, r, W)."""
    images, classes, height, width = logits.shape
    down = bilinear_matrix(height, size[0], align_corners).to(logits.device)
    across = bilinear_matrix(width, size[1], align_corners).to(logits.device).T.contiguous()
    elements = CPU_ELEMENTS if logits.device.type == "cpu" else DEVICE_ELEMENTS
    rows = max(1, elements // (images * classes * size[1]))
    for top in range(0, size[0], rows):
        strip = slice(top, min(top + rows, size[0]))
        yield strip, (down[strip] @ logits) @ across


def chunked_pixel_loss(logits: Tensor, label: Tensor, score: PixelScore, align_corners: bool) -> Tensor:
    """Each pixel's score (N, H, W) of logits (N, K, h, w) grown to the label's size; for use without gradients."""
    strips = upsample_in_chunks(logits, label.shape[1:], align_corners)
    return torch.cat([score(grown, label[:, rows]) for rows, grown in strips], dim=1)


class ChunkedUpsampleLoss(torch.autograd.Function):
    """Sum of a pixel score over logits (N, K, h, w) grown to the label's size (N, H, W); the gradient is taken in the forward pass."""

    @staticmethod
    def forward(ctx, logits: Tensor, label: Tensor, score: PixelScore, align_corners: bool) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        small = logits.detach().requires_grad_(wanted)
        total = logits.new_zeros(())
        with torch.set_grad_enabled(wanted):
            for rows, grown in upsample_in_chunks(small, label.shape[1:], align_corners):
                part = score(grown, label[:, rows]).sum()
                if wanted:
                    part.backward()
                total += part.detach()
        if wanted:
            ctx.save_for_backward(small.grad)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        return outer[0] * ctx.saved_tensors[0], None, None, None
