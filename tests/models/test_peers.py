"""Parts of our models beside the same parts of others, with equal weights. Whole models are compared in test_layouts and test_models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segzoo.layers.pyramid_pooling import PyramidPooling
from segzoo.layers.resize import resize
from segzoo.models.icnet import CascadeFusion

SKIP = 'pip install -e ".[peers]"'


@pytest.mark.parametrize("size", [(60, 60), (33, 65), (13, 7)], ids=str)
@torch.no_grad()
def test_pyramid_is_that_of_segmentation_models_pytorch(size):
    pytest.importorskip("segmentation_models_pytorch", reason=SKIP)
    from segmentation_models_pytorch.decoders.pspnet.decoder import PSPModule  # pyright: ignore[reportMissingImports]

    theirs = PSPModule(32, (1, 2, 3, 6)).eval()
    x = torch.randn(2, 32, *size)
    blocks: list[Any] = list(theirs.blocks)
    pooled = PyramidPooling((1, 2, 3, 6))(x)
    ours = [resize(block.pool[1](grid), size, True) for block, grid in zip(blocks, pooled, strict=True)]  # with their convolution
    torch.testing.assert_close(torch.cat([*ours, x], 1), theirs(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_cascade_fusion_is_that_of_mmsegmentation_without_its_inner_relus():
    pytest.importorskip("mmcv", reason=SKIP)
    from benchmarks.harness.mmseg_import import import_mmseg

    import_mmseg()
    from mmseg.models.necks.ic_neck import CascadeFeatureFusion  # pyright: ignore[reportMissingImports]

    theirs: Any = CascadeFeatureFusion(16, 8, 12, act_cfg=None, align_corners=True).eval()
    ours: Any = CascadeFusion(16, 8, 12).eval()
    for mine, other in ((ours.low, theirs.conv_low), (ours.high, theirs.conv_high)):
        for tensor in (other.bn.running_mean, other.bn.running_var, other.bn.weight, other.bn.bias):
            tensor.uniform_(0.5, 1.5)
        mine.conv.load_state_dict(other.conv.state_dict())
        mine.bn.load_state_dict(other.bn.state_dict())
    low, high = torch.randn(2, 16, 9, 17), torch.randn(2, 8, 17, 33)
    found = ours(resize(low, (17, 33), True), high)
    torch.testing.assert_close(found, theirs(low, high)[0], rtol=1e-4, atol=1e-5)
