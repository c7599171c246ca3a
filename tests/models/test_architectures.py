"""The architecture of each model, compared with its paper or with torchvision."""

from __future__ import annotations

import pytest
import torch
from small_models import assert_close_to_scale, build, on_meta, random_images, randomized, record_calls, scalar_loss
from torch import nn
from torch.nn import functional as F

from segzoo.models.fcn import FCN, Deconv, _crop
from segzoo.models.icnet import CascadeFusion


@pytest.mark.parametrize(
    "model, settings, weights",
    [
        ("pspnet", {}, (0.4,)),
        ("pspnet", {"aux_weight": 0}, ()),
        ("icnet", {}, (0.16, 0.4)),
        ("icnet", {"guidance": (0.4, 1)}, (0.4, 1.0)),
        ("fcn_dilated", {}, (0.5,)),
        ("fcn_dilated", {"aux_weight": 0}, ()),
        ("fcn", {}, ()),
    ],
)
def test_auxiliary_weights_follow_the_settings(model, settings, weights):
    built = on_meta(model, "resnet50", 5, {}, **settings)
    assert built.aux_weights == weights and len(built.aux) == len(weights)


@pytest.mark.parametrize("concat, order", [("descending", (6, 3, 2, 1)), ("ascending", (1, 2, 3, 6))])
def test_pspnet_concatenates_its_pooled_maps_in_the_configured_order(concat, order):
    model = randomized(build("pspnet", concat=concat)).eval()
    calls = record_calls(model, c5="backbone.c5.2", fuse="fuse.conv")
    with torch.no_grad():
        model(random_images(1, 3, 97, 129))
        features = calls["c5"][1]
        reduce = {b: model.reduce[i] for i, b in enumerate((1, 2, 3, 6))}
        pooled = [reduce[b](F.adaptive_avg_pool2d(features, b)) for b in order]
    upsampled = [F.interpolate(p, size=(13, 17), mode="bilinear", align_corners=True) for p in pooled]
    assert_close_to_scale(calls["fuse"][0], torch.cat([features, *upsampled], 1))


@pytest.mark.parametrize("settings, maps", [({"reduce": False}, 5), ({"bins": (1,)}, 2), ({"bins": ()}, 1), ({"pool": "max"}, 2)])
def test_pspnet_ablations_have_their_widths(settings, maps):
    model = build("pspnet", **settings).eval()
    assert model.fuse.conv.in_channels == maps * 256
    assert model(random_images(1, 3, 40, 50)).main.shape == (1, 5, 6, 8)  # of 41x57


def test_pspnet_trains_on_one_image_without_statistics_of_one_value():
    model = build("pspnet").train()
    with pytest.warns(UserWarning, match="1x1 pyramid level"):
        model(random_images(1, 3, 64, 64))
    assert [int(reduce.bn.num_batches_tracked) for reduce in model.reduce] == [0, 1, 1, 1]


def test_icnet_runs_the_backbone_once_and_classifies_upsampled_maps():
    model = build("icnet").train()
    sizes = []
    model.backbone.c1[0].register_forward_hook(lambda module, inputs, output: sizes.append(tuple(inputs[0].shape[2:])))
    calls = record_calls(model, low24="cff24.low", low12="cff12.low", sixteenth="aux.0", eighth="aux.1")
    model(random_images(1, 3, 129, 193))
    assert sizes == [(65, 97)]
    assert calls["sixteenth"][0] is calls["low24"][0] and calls["sixteenth"][1].shape[2:] == (9, 13)
    assert calls["eighth"][0] is calls["low12"][0] and calls["eighth"][1].shape[2:] == (17, 25)


def test_icnet_adds_its_pyramid_to_the_backbone_features():
    model = randomized(build("icnet")).eval()
    calls = record_calls(model, c5="backbone.c5.2", conv5_4="conv5_4")
    with torch.no_grad():
        model(random_images(1, 3, 225, 161))
    features = calls["c5"][1]
    assert features.shape[2:] == (8, 6)
    pooled = [F.adaptive_avg_pool2d(features, b) for b in (1, 2, 3, 6)]
    upsampled = [F.interpolate(p, size=(8, 6), mode="bilinear", align_corners=True) for p in pooled]
    assert_close_to_scale(calls["conv5_4"][0], torch.stack([features, *upsampled]).sum(0))


@pytest.mark.parametrize("branches, head, step", [(4, 0, 16), (24, 1, 8)])
def test_icnet_with_fewer_branches_returns_its_auxiliary_logits(branches, head, step):
    whole, fewer = randomized(build("icnet")), build("icnet", branches=branches)
    fewer.load_state_dict(whole.state_dict())
    whole.eval().branches = branches  # set on a trained network, to measure what its branches contribute
    with torch.no_grad():
        assert torch.equal(fewer.eval()(random_images(1, 3, 65, 97)).main, whole(random_images(1, 3, 65, 97)).main)
    logits = fewer.train()(random_images(2, 3, 65, 97))
    assert len(logits.aux) == len(fewer.aux_weights) == head and fewer.aux_weights == whole.aux_weights[:head]
    assert logits.main.shape[-2:] == (-(-65 // step), -(-97 // step))
    scalar_loss(logits).backward()
    assert all((p.grad is not None) == p.requires_grad for p in fewer.parameters())


def test_cascade_fusion_adds_a_dilated_and_a_plain_convolution_before_its_relu():
    fusion = CascadeFusion(4, 6, 8)
    low, high = random_images(2, 4, 9, 11), random_images(2, 6, 9, 11, seed=1)
    first = F.batch_norm(F.conv2d(low, fusion.low.conv.weight, padding=2, dilation=2), None, None, training=True)
    second = F.batch_norm(F.conv2d(high, fusion.high.conv.weight), None, None, training=True)
    torch.testing.assert_close(fusion(low, high), F.relu(first + second))


@pytest.mark.parametrize(
    "model, settings, c4, c5",
    [
        ("pspnet", {}, [2] * 6, [4] * 3),
        ("pspnet", {"first_block_dilation": "half"}, [1] + [2] * 5, [2, 4, 4]),
        ("pspnet", {"output_stride": 16}, [1] * 6, [2] * 3),
        ("icnet", {}, [2] * 6, [4] * 3),
        ("icnet", {"first_block_dilation": "half"}, [1] + [2] * 5, [2, 4, 4]),
        ("fcn_dilated", {}, [1] + [2] * 5, [2, 4, 4]),
        ("fcn_dilated", {"first_block_dilation": "full"}, [2] * 6, [4] * 3),
        ("fcn", {}, [1] * 6, [1] * 3),
    ],
)
def test_backbone_dilations_follow_the_settings(model, settings, c4, c5):
    backbone = on_meta(model, "resnet50", 5, {}, **settings).backbone
    for stage, dilations in (("c4", c4), ("c5", c5)):
        layers = backbone.get_submodule(stage).modules()
        assert [m.dilation[0] for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)] == dilations


def test_fcn_crops_repeat_the_last_row_and_column():
    large = random_images(1, 2, 8, 9)
    assert torch.equal(_crop(large, torch.empty(1, 5, 4, 6), 2), large[..., 2:6, 2:8])
    assert torch.equal(_crop(large, torch.empty(1, 5, 4, 9), 2), large[..., 2:6, [2, 3, 4, 5, 6, 7, 8, 8, 8]])


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_transposed_convolution_starts_as_bilinear_upsampling(stride):
    x = random_images(1, 3, 5, 6)
    upsampled, margin = Deconv(3, stride, learned=False)(x), stride // 2
    expected = F.interpolate(x, scale_factor=float(stride), mode="bilinear", align_corners=False)
    inner = (..., slice(margin, -margin), slice(margin, -margin))  # near the border it fades to zero
    torch.testing.assert_close(upsampled[..., margin:-margin, margin:-margin][inner], expected[inner])


def test_fcn_starts_at_zero_and_adds_the_scores_of_three_depths():
    model = build("fcn").eval()
    x = random_images(1, 3, 64, 96)
    assert isinstance(model, FCN) and not model(x).main.any()
    for bias in (model.get_parameter(f"{name}.bias") for name in ("score", "skips.c4", "skips.c3")):
        nn.init.ones_(bias)
        assert model(x).main[..., 32, 48].mean().item() == pytest.approx(1, abs=1e-5)
        nn.init.zeros_(bias)


@pytest.mark.parametrize("deconv, learned", [("frozen", set()), ("learned", {"ups.c4.weight", "ups.c3.weight"})])
def test_fcn_trains_transposed_convolutions_before_a_sum_only_if_set(deconv, learned):
    model = build("fcn", deconv=deconv)
    assert {name for name, p in model.named_parameters() if "up" in name and p.requires_grad} == learned


@pytest.mark.parametrize("name", ["resnet50", pytest.param("resnet101", marks=pytest.mark.slow)])
def test_dilated_fcn_equals_torchvision(name):
    from torchvision.models import segmentation

    reference = getattr(segmentation, f"fcn_{name}")(weights=None, weights_backbone=None, aux_loss=True, num_classes=21)
    reference = randomized(reference).eval()
    model = build("fcn_dilated", name, 21, options={}).eval()
    state = reference.state_dict()
    values = [v for prefix in ("backbone.", "aux_classifier.", "classifier.") for k, v in state.items() if k.startswith(prefix)]
    assert [v.shape for v in values] == [v.shape for v in model.state_dict().values()]
    model.load_state_dict(dict(zip(list(model.state_dict()), values, strict=True)))
    x = random_images(1, 3, 65, 97).double()  # in fp32, 1x1 convolutions may round in another way
    with torch.no_grad():
        expected, logits = reference.double()(x), model.double()(x)
        aux = model.aux[0](model.backbone.forward_stages(x)["c4"])
    for scores, key in ((logits.main, "out"), (aux, "aux")):
        upsampled = F.interpolate(scores, size=(65, 97), mode="bilinear", align_corners=model.align_corners)
        torch.testing.assert_close(upsampled, expected[key].float(), rtol=1e-4, atol=1e-4)
