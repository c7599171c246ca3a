"""Losses at label size without storing the full-size logits.

Upsampling 150 classes to 512x512 and backpropagating through it keeps several (N, K, H, W) copies alive. Here a chunk of rows is
upsampled, its loss is computed and differentiated before the next chunk, and only the gradient of the small logits is stored.
Upsampling is two matrix products. They give the same values as bilinear interpolation, are faster on a CPU, and avoid its backward
pass, which is not deterministic on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segzoo.layers.resize import upsample_in_chunks

PixelLossFn = Callable[[Tensor, Tensor], Tensor]  # logits (N, K, r, W), label (N, r, W) -> loss of each pixel (N, r, W)
SumsFn = Callable[[Tensor, Tensor], Tensor]  # logits (N, K, r, W), label (N, r, W) -> sums over pixels, of any shape


def chunked_pixel_loss(logits: Tensor, label: Tensor, pixel_loss: PixelLossFn, align_corners: bool) -> Tensor:
    """Loss of each pixel at label size, for use without gradients.

    Shapes:
        logits (N, K, h, w), label (N, H, W) -> (N, H, W)
    """
    chunks = upsample_in_chunks(logits, label.shape[1:], align_corners)
    return torch.cat([pixel_loss(upsampled, label[:, rows]) for rows, upsampled in chunks], dim=1)


class ChunkedUpsampleLoss(torch.autograd.Function):
    """Sum of a pixel loss over logits upsampled to label size.

    The gradient is computed in the forward pass. With ``whole``, the loss may be any function of all pixels together.

    Shapes:
        logits (N, K, h, w), label (N, H, W) -> scalar
    """

    @staticmethod
    def forward(ctx, logits: Tensor, label: Tensor, pixel_loss: PixelLossFn, align_corners: bool, whole: bool = False) -> Tensor:
        needs_grad = ctx.needs_input_grad[0]
        leaf = logits.detach().requires_grad_(needs_grad)
        total = logits.new_zeros(())
        with torch.set_grad_enabled(needs_grad):
            for rows, upsampled in upsample_in_chunks(leaf, label.shape[1:], align_corners, whole):
                loss = pixel_loss(upsampled, label[:, rows]).sum()
                if needs_grad:
                    loss.backward()
                total += loss.detach()
        if needs_grad:
            ctx.save_for_backward(leaf.grad)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        return grad_outputs[0] * ctx.saved_tensors[0], None, None, None, None


class ChunkedUpsampleSums(torch.autograd.Function):
    """Sums over the pixels of logits upsampled to label size.

    Unlike a loss, a function of the sums has a gradient only once all chunks are known, so the backward pass upsamples them again.

    Shapes:
        logits (N, K, h, w), label (N, H, W) -> the shape of the sums
    """

    @staticmethod
    def forward(ctx, logits: Tensor, label: Tensor, sums: SumsFn, align_corners: bool) -> Tensor:
        ctx.save_for_backward(logits, label)
        ctx.sums, ctx.align_corners = sums, align_corners
        chunks = upsample_in_chunks(logits, label.shape[1:], align_corners)
        return torch.stack([sums(upsampled, label[:, rows]) for rows, upsampled in chunks]).sum(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        logits, label = ctx.saved_tensors
        leaf = logits.detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
            for rows, upsampled in upsample_in_chunks(leaf, label.shape[1:], ctx.align_corners):
                (ctx.sums(upsampled, label[:, rows]) * grad_outputs[0]).sum().backward()
        return leaf.grad, None, None, None  # type: ignore[return-value]
