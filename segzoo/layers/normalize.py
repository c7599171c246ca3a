"""Input normalization on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from segzoo.device import constant
from segzoo.types import DatasetInfo


def normalize(image: Tensor, info: DatasetInfo, device: torch.device, channels_last: bool = True) -> Tensor:
    """Move images to the device as they are and normalize them.

    Args:
        image: images as read from disk.
        info: provides the mean and standard deviation, on the scale of the samples.
        device: the device of the model.
        channels_last: whether the result is channels last in memory.

    Shapes:
        (N, H, W, C) uint8 or uint16 -> (N, C, H, W) float32
    """
    x = image.to(device, non_blocking=True).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    mean, std = (constant(values, torch.float32, device) for values in (info.mean, info.std))
    x = normalize_rows_(x, mean, std)  # a permuted NHWC tensor is already channels last
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def normalize_rows_(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalize NHWC images in place and return them as NCHW.

    Shapes:
        (N, H, W, C) float32 contiguous, (C,), (C,) -> (N, C, H, W), a view
    """
    width = x.shape[2]
    # whole rows at once: with a last axis of a few channels, PyTorch would loop over single pixels
    x.flatten(2).sub_(mean.repeat(width)).div_(std.repeat(width))
    return x.permute(0, 3, 1, 2)
