"""Layers compared with PyTorch's own, in values, precision and export."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo.layers.conv import Classifier, ConvBN
from segzoo.layers.norm import SingleValueBatchNorm
from segzoo.layers.pyramid_conv import FactorizedPyramidConv, PyramidConvBN
from segzoo.layers.pyramid_pooling import PyramidPooling, upsample_pooled
from segzoo.layers.resize import enlarge_to_corners, resize
from segzoo.layers.upsample_argmax import upsample_argmax

POOLS = {"avg": F.adaptive_avg_pool2d, "max": F.adaptive_max_pool2d}
quick = settings(max_examples=40, deadline=None)
sides = st.integers(1, 40)


def assert_labels_equal(labels, logits, size, align_corners):
    """Labels equal the arg-max of PyTorch's upsampling.

    They may differ where its two best classes are equal up to rounding.
    """
    upsampled = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    differing = labels != upsampled.argmax(1)
    if differing.any():
        best, second = upsampled.topk(2, dim=1).values.unbind(1)
        assert (best - second)[differing].max() < 1e-6 * upsampled.abs().max()


# ConvBN, Classifier


@pytest.mark.parametrize("kernel, stride, dilation", [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 4), (7, 2, 1)])
def test_conv_bn_divides_the_size_by_the_stride_rounding_up(kernel, stride, dilation):
    layer = ConvBN(3, 5, kernel, stride=stride, dilation=dilation)
    assert layer(torch.randn(2, 3, 17, 12)).shape == (2, 5, -(-17 // stride), -(-12 // stride))


@pytest.mark.parametrize("relu", [True, False])
def test_conv_bn_equals_convolution_batch_norm_relu(relu):
    layer, x = ConvBN(3, 5, 3, dilation=2, relu=relu), torch.randn(2, 3, 9, 8)
    expected = F.batch_norm(F.conv2d(x, layer.conv.weight, padding=2, dilation=2), None, None, training=True)
    torch.testing.assert_close(layer(x), F.relu(expected) if relu else expected)
    assert set(dict(layer.named_parameters())) == {"conv.weight", "bn.weight", "bn.bias"}


@pytest.mark.parametrize("kernel", [1, 3])
def test_classifier_is_full_precision_inside_autocast(kernel):
    layer, x = Classifier(64, 5, kernel=kernel), torch.randn(2, 64, 6, 7).bfloat16()
    expected = layer(x.float())
    torch.testing.assert_close(expected, F.conv2d(x.float(), layer.weight, layer.bias, padding=kernel // 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = layer(x)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


def test_classifier_of_a_model_in_low_precision_is_float32():
    assert Classifier(4, 2).bfloat16()(torch.randn(1, 4, 3, 3).bfloat16()).dtype == torch.float32


# SingleValueBatchNorm


def randomized(norm):
    """The layer with random parameters and statistics."""
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 2.0)
    return norm


def test_one_value_uses_and_keeps_the_running_statistics_with_one_warning():
    norm = randomized(SingleValueBatchNorm(4, role="the 1x1 level"))
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    x = torch.randn(1, 4, 1, 1, requires_grad=True)
    with pytest.warns(UserWarning, match="the 1x1 level"):
        y = norm(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = norm(x)
    y.sum().backward()
    torch.testing.assert_close(y, plain_copy(norm).eval()(x))
    assert x.grad is not None and norm.weight.grad is not None
    for key, value in norm.state_dict().items():
        assert torch.equal(value, before[key]), key


def plain_copy(norm):
    """Ordinary batch norm with the same state."""
    plain = nn.BatchNorm2d(norm.num_features)
    plain.load_state_dict(norm.state_dict())
    return plain


@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (1, 4, 1, 2), (3, 4, 5, 6)])
def test_several_values_equal_batch_norm(shape):
    norm = randomized(SingleValueBatchNorm(4))
    plain, x = plain_copy(norm), torch.randn(shape)
    for mode in (True, False):
        assert torch.equal(norm.train(mode)(x), plain.train(mode)(x))
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in norm.state_dict().items())


# resize, upsample_argmax


def test_resize_with_aligned_corners_keeps_every_second_pixel_at_odd_sizes():
    x = torch.randn(1, 2, 9, 17)
    torch.testing.assert_close(resize(x, (5, 9), True), x[:, :, ::2, ::2], rtol=0, atol=1e-6)


@quick
@given(st.tuples(sides, sides), st.tuples(sides, sides), st.integers(1, 6), st.booleans(), st.integers(1, 50), st.integers(0, 99))
def test_upsample_argmax_equals_interpolate_and_argmax(small, size, classes, align_corners, rows, seed):
    logits = torch.randn(2, classes, *small, generator=torch.Generator().manual_seed(seed))
    labels = upsample_argmax(logits, size, align_corners, rows=rows)
    assert labels.dtype == torch.uint8 and labels.shape == (2, *size)
    assert_labels_equal(labels, logits, size, align_corners)


@pytest.mark.parametrize("align_corners", [True, False])
def test_upsample_argmax_at_a_realistic_size(align_corners):
    logits = torch.randn(1, 19, 65, 129)
    assert_labels_equal(upsample_argmax(logits, (513, 1025), align_corners), logits, (513, 1025), align_corners)


@quick
@given(
    st.tuples(sides, sides),
    st.tuples(st.integers(2, 5), st.integers(2, 5)),
    st.tuples(sides, sides),
    st.booleans(),
    st.integers(0, 99),
)
def test_upsample_argmax_interpolates_only_borders(small, factors, more, align_corners, seed):
    size = [side * factor + extra for side, factor, extra in zip(small, factors, more, strict=True)]
    coarse = torch.randn(2, 4, (small[0] + 2) // 3, (small[1] + 2) // 3, generator=torch.Generator().manual_seed(seed))
    logits = coarse.repeat_interleave(3, 2).repeat_interleave(3, 3)[:, :, : small[0], : small[1]]
    logits = logits + 0.2 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segzoo.layers.upsample_argmax.SPARSE_FRACTION", 1.0)
        patch.setattr("segzoo.layers.upsample_argmax._label_in_strips", None)
        assert_labels_equal(upsample_argmax(logits, size, align_corners), logits, size, align_corners)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(130, 200), (257, 129), (96, 400)])
def test_upsample_argmax_tries_a_finer_grid_where_many_cells_are_border_cells(monkeypatch, size, align_corners):
    logits = torch.randn(2, 6, 5, 8, generator=torch.Generator().manual_seed(size[0]))
    monkeypatch.setattr("segzoo.layers.upsample_argmax._label_in_strips", None)
    assert_labels_equal(upsample_argmax(logits, size, align_corners), logits, size, align_corners)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_upsampled_pooled_maps_keep_the_memory_format_of_their_source(layout, batch):
    x = torch.randn(batch, 8, 12, 20).contiguous(memory_format=layout)
    for grid in PyramidPooling((1, 2, 3))(x):
        upsampled = upsample_pooled(grid, (12, 20), True)
        torch.testing.assert_close(upsampled, resize(grid, (12, 20), True))
        assert (x + upsampled).stride() == x.stride() and (grid.shape[-1] == 1 or upsampled.stride() == x.stride())


def test_upsample_argmax_gives_ties_to_the_lower_class():
    logits = torch.randn(1, 1, 5, 5).expand(1, 4, 5, 5)
    assert not upsample_argmax(logits, (33, 20), False).any()


def test_upsample_argmax_supports_more_classes_than_a_byte_holds():
    logits = torch.zeros(1, 300, 2, 2)
    logits[:, 299] = 1
    labels = upsample_argmax(logits, (4, 4), True)
    assert labels.dtype == torch.int32 and (labels == 299).all()


def test_upsample_argmax_never_builds_the_upsampled_logits():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out._base is None:
                self.numel = max(self.numel, out.numel())
            return out

    logits = torch.randn(1, 19, 64, 64)
    with Largest() as largest:
        upsample_argmax(logits, (512, 512), True)
    assert 0 < largest.numel < logits.shape[1] * 512 * 512 / 8


# PyramidPooling, FactorizedPyramidConv


@quick
@given(sides, sides, st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from(sorted(POOLS)))
def test_pyramid_pooling_equals_adaptive_pooling_at_every_size(height, width, bins, pool):
    x = torch.randn(2, 3, height, width)
    for actual, b in zip(PyramidPooling(bins, pool)(x), bins, strict=True):
        torch.testing.assert_close(actual, POOLS[pool](x, b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", sorted(POOLS))
def test_pyramid_pooling_has_the_gradient_of_adaptive_pooling(pool):
    x = torch.randn(2, 3, 7, 10, requires_grad=True)
    (actual,), expected = PyramidPooling((6,), pool)(x), POOLS[pool](x, 6)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(actual, x, upstream), torch.autograd.grad(expected, x, upstream))


@pytest.mark.parametrize("pool", sorted(POOLS))
def test_pyramid_pooling_computes_in_full_precision_inside_autocast(pool):
    x = torch.rand(1, 4, 90, 90).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (actual,) = PyramidPooling((3,), pool)(x)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual, POOLS[pool](x.float(), 3).bfloat16(), rtol=2**-7, atol=0)


@pytest.mark.integration
@pytest.mark.parametrize("pool", sorted(POOLS))
def test_pyramid_pooling_exports_with_a_dynamic_size(pool):
    layer = PyramidPooling((1, 2, 3, 6), pool)
    shapes = {"x": {0: Dim("batch", min=1, max=8), 2: Dim("height", min=2, max=512), 3: Dim("width", min=2, max=512)}}
    program = torch.export.export(layer, (torch.randn(2, 3, 24, 30),), dynamic_shapes=shapes).module()
    for batch, height, width in ((1, 3, 3), (2, 33, 65), (3, 61, 17)):
        x = torch.randn(batch, 3, height, width)
        for actual, b in zip(program(x), layer.bins, strict=True):
            torch.testing.assert_close(actual, POOLS[pool](x, b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(9, 14), (12, 6), (1, 1)])
@torch.no_grad()
def test_factorized_pyramid_conv_equals_upsampling_before_the_convolution(size, align_corners):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(7 + 2 * 3, 5, 3, padding=1)
    features, pooled = torch.randn(2, 7, *size), [torch.randn(2, 3, b, b) for b in (1, 4)]
    concatenated = torch.cat([features, *(resize(p, size, align_corners) for p in pooled)], 1)
    torch.testing.assert_close(
        FactorizedPyramidConv(conv, 7, align_corners)(features, pooled), conv(concatenated), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("align_corners", [False, True])
def test_pyramid_conv_trains_like_the_concatenated_map(align_corners):
    torch.manual_seed(0)
    layer = PyramidConvBN(7, 2 * 3, 5, align_corners).double().train()
    inputs = [torch.randn(2, 7, 9, 14), *(torch.randn(2, 3, b, b) for b in (1, 4))]
    features, *pooled = (x.double().requires_grad_() for x in inputs)
    concatenated = torch.cat([features, *(resize(p, (9, 14), align_corners) for p in pooled)], 1)
    expected = layer.relu(F.batch_norm(layer.conv(concatenated), None, None, training=True))
    actual = layer(features, pooled)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    upstream, parameters = torch.randn_like(expected), (features, *pooled, layer.conv.weight)
    for one, other in zip(*(torch.autograd.grad(y, parameters, upstream) for y in (actual, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(features, pooled), layer.relu(layer.bn(layer.conv(concatenated))))


def test_factorized_pyramid_conv_rejects_other_convolutions():
    with pytest.raises(ValueError, match="expected a 3x3"):
        FactorizedPyramidConv(torch.nn.Conv2d(4, 4, 1), 2, False)


@pytest.mark.parametrize("size", [(33, 65), (40, 81), (48, 72)])
def test_upsampled_logits_lie_where_the_enlarged_image_does(size):
    rows, columns = (torch.arange(side, dtype=torch.float32) for side in size)
    ramps = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]  # each pixel holds its own position
    logits = enlarge_to_corners(ramps, 8)[..., ::8, ::8]  # what a layer of stride 8 sees
    torch.testing.assert_close(resize(logits, size, align_corners=True), ramps, rtol=0, atol=1e-4)


def test_an_exported_graph_enlarges_by_sums_like_the_network():
    class Enlarge(nn.Module):
        def forward(self, x):
            return enlarge_to_corners(x, 8)

    for size in ((33, 41), (32, 40), (33, 40), (32, 41), (30, 40), (38, 34)):
        x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        program = torch.export.export(Enlarge(), (x,))
        torch.testing.assert_close(program.module()(x), Enlarge()(x))
        assert not any("upsample" in str(node.target) for node in program.graph.nodes)
