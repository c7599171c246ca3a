"""Training in channels-last order copies no feature map to another order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import build, random_images
from torch.utils._python_dispatch import TorchDispatchMode

CASES = [
    *(("icnet", "resnet50", {}), ("pspnet", "resnet50", {}), ("fcn_dilated", "resnet50", {"concat_input": True})),
    *((model, "resnet50", {}) for model in ("fcn", "deeplab_largefov")),
    *(("parsenet", "resnet50", {"fusion": fusion}) for fusion in ("late", "early")),
]


class ConvolutionInputs(TorchDispatchMode):
    """Collects the inputs that convolutions would copy to channels last."""

    def __init__(self):
        super().__init__()
        self.copied: list[tuple[int, ...]] = []
        self.count = 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.count += 1
            if not args[0].is_contiguous(memory_format=torch.channels_last):
                self.copied.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("model", "backbone", "settings"), CASES)
def test_convolutions_copy_no_feature_map(model, backbone, settings):
    network = build(model, backbone, **settings).train().to(memory_format=torch.channels_last)
    x = random_images(2, 3, 65, 97).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), ConvolutionInputs() as inputs:
        network(x)
    assert inputs.copied == [] and inputs.count > 50
