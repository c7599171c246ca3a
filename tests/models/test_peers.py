"""Layers compared with those of other libraries, with equal weights.

Whole models are compared in test_conversion and test_architectures.
"""

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
def test_pyramid_pooling_equals_segmentation_models_pytorch(size):
    pytest.importorskip("segmentation_models_pytorch", reason=SKIP)
    from segmentation_models_pytorch.decoders.pspnet.decoder import PSPModule  # pyright: ignore[reportMissingImports]

    reference = PSPModule(32, (1, 2, 3, 6)).eval()
    x = torch.randn(2, 32, *size)
    blocks: list[Any] = list(reference.blocks)
    pooled = PyramidPooling((1, 2, 3, 6))(x)
    upsampled = [resize(block.pool[1](grid), size, True) for block, grid in zip(blocks, pooled, strict=True)]  # its convolutions
    torch.testing.assert_close(torch.cat([*upsampled, x], 1), reference(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_cascade_fusion_equals_mmsegmentation_without_its_inner_relus():
    pytest.importorskip("mmcv", reason=SKIP)
    from benchmarks.harness.mmseg_import import import_mmseg

    import_mmseg()
    from mmseg.models.necks.ic_neck import CascadeFeatureFusion  # pyright: ignore[reportMissingImports]

    reference: Any = CascadeFeatureFusion(16, 8, 12, act_cfg=None, align_corners=True).eval()
    fusion: Any = CascadeFusion(16, 8, 12).eval()
    for local, external in ((fusion.low, reference.conv_low), (fusion.high, reference.conv_high)):
        for tensor in (external.bn.running_mean, external.bn.running_var, external.bn.weight, external.bn.bias):
            tensor.uniform_(0.5, 1.5)
        local.conv.load_state_dict(external.conv.state_dict())
        local.bn.load_state_dict(external.bn.state_dict())
    low, high = torch.randn(2, 16, 9, 17), torch.randn(2, 8, 17, 33)
    fused = fusion(resize(low, (17, 33), True), high)
    torch.testing.assert_close(fused, reference(low, high)[0], rtol=1e-4, atol=1e-5)
