"""Convolutions, and the library that computes them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from segzoo.layers.conv import HAS_AVX512, Conv2d


@pytest.fixture(autouse=True)
def one_thread(set_threads):
    set_threads(1)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"groups": 4}, {"bias": False}, {"padding": 1}, {"kernel_size": 3, "padding": 2, "dilation": 2}]
)
def test_a_convolution_equals_that_of_torch(options):
    ours, reference = (make(16, 32, **{"kernel_size": 1} | options) for make in (Conv2d, nn.Conv2d))
    reference.load_state_dict(ours.state_dict())
    results = []
    for conv in (ours, reference):
        x = torch.randn(2, 16, 15, 17, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = conv(x)
        y.square().sum().backward()
        results.append((y, x.grad, *(p.grad for p in conv.parameters())))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(not HAS_AVX512, reason="1x1 convolutions keep torch's choice on other processors")
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.integration)])
def test_one_thread_computes_1x1_convolutions_by_onednn(compiled):
    conv = Conv2d(16, 32, 1)
    call = torch.compile(conv) if compiled else conv
    x = torch.randn(2, 16, 40, 40)
    call(x)
    with profile(activities=[ProfilerActivity.CPU]) as events:
        call(x).sum().backward()
    names = {event.key for event in events.key_averages()}
    assert "aten::mkldnn_convolution" in names
    assert not any("slow_conv2d" in name for name in names)


def test_an_exported_convolution_is_not_dilated():
    graph = torch.export.export(Conv2d(16, 32, 1).eval(), (torch.randn(1, 16, 8, 8),)).graph
    (node,) = (node for node in graph.nodes if "conv" in str(node.target))
    assert node.args[5:6] in ((), ([1, 1],))
