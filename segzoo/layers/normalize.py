"""Input normalization on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from segzoo.types import DatasetInfo


def normalize(image: Tensor, info: DatasetInfo, device: torch.device, channels_last: bool = True) -> Tensor:
    """Brings images to the device as bytes and scales them there with the info's mean and standard deviation.

    Shapes:
        (N, H, W, 3) uint8 -> (N, 3, H, W) float32, channels last in memory unless told otherwise
    """
    x = image.to(device, non_blocking=True).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    mean, std = (torch.tensor(values, device=device).repeat(x.shape[2]) for values in (info.mean, info.std))
    x.flatten(2).sub_(mean).div_(std)  # whole rows at once: a last axis of three would be taken pixel by pixel
    x = x.permute(0, 3, 1, 2)  # a permuted NHWC block is channels last already
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
