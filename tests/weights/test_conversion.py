"""External weights: equal logits after conversion, and errors for mismatches."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision

from segzoo.api import create_model
from segzoo.pruning._base import NoCalibration
from segzoo.registry import INITS, PRUNERS, ConfigError
from segzoo.weights import convert_state_dict, to_caffe_state_dict

DEEP = {"name": "resnet50", "stem": "deep", "stride_at": "1x1"}
RELEASED = {
    "icnet": {"backbone": DEEP | {"width": 0.5}, "num_classes": 19},
    "pspnet": {"backbone": DEEP, "num_classes": 7},
    "pspnet_ascending": {"backbone": DEEP, "num_classes": 7, "concat": "ascending"},
}


def randomize_bn(model):
    """Give batch norm random values, and set evaluation mode.

    A tensor in the wrong layer then changes the logits.
    """
    generator = torch.Generator().manual_seed(4)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 + 0.6)
    return model.eval()


def build(name):
    torch.manual_seed(1)
    return create_model(name.partition("_")[0], **RELEASED[name])


def load(model, state, tmp_path, **settings):
    """Load a state dict as ``init.ckpt=<file>`` does."""
    torch.save(state, tmp_path / "external.pth")
    return INITS.build("checkpoint", model, None, ckpt=str(tmp_path / "external.pth"), match="index", **settings)


@pytest.mark.integration
@pytest.mark.parametrize("folded", [False, True], ids=["with_bn", "folded"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n == "pspnet_ascending" else []) for n in RELEASED])
@torch.no_grad()
def test_caffe_round_trip_keeps_the_logits(name, folded, tmp_path):
    original, loaded = randomize_bn(build(name)), randomize_bn(build(name))
    for parameter in loaded.parameters():
        parameter.zero_()
    x = torch.randn(1, 3, 65, 97)
    state = to_caffe_state_dict(original, folded=folded)
    report = load(loaded, state, tmp_path)
    assert not report.unused
    assert all(part.startswith("aux.") for part in report.reinitialized)
    expected = original(x).main
    assert torch.allclose(loaded(x).main, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


def test_caffe_names_and_parameter_count_match_the_prototxt():
    state = to_caffe_state_dict(build("icnet"))
    assert {k.partition(".")[0] for k in state} >= {
        "conv1_1_3x3_s2", "conv1_1_3x3_s2/bn", "conv2_1_1x1_reduce", "conv3_1_1x1_proj/bn", "conv4_6_3x3", "conv5_3_1x1_increase",
        "conv5_4_k1", "conv_sub4", "conv3_1_sub2_proj/bn", "conv_sub2", "conv1_sub1", "conv3_sub1_proj", "conv6_cls",
    }  # fmt: skip
    layers = {k.rpartition(".")[0] for k in state if "/bn" not in k}
    assert len(layers) == 64  # as in the prototxt, conv6_cls included
    folded = to_caffe_state_dict(build("icnet"), folded=True)
    assert sum(t.numel() for t in folded.values()) == 6_685_715  # the released icnet_cityscapes.prototxt


def test_caffe_pspnet_reads_bgr_and_concatenates_descending_bins():
    model = build("pspnet_ascending")
    state = to_caffe_state_dict(model)
    assert torch.equal(state["conv1_1_3x3_s2.weight"][:, 0], model.state_dict()["backbone.c1.0.weight"][:, 2])
    blocks = state["conv5_4.weight"].split([2048, 512, 512, 512, 512], 1)
    own = model.state_dict()["fuse.conv.weight"].split([2048, 512, 512, 512, 512], 1)
    assert torch.equal(blocks[1], own[4])
    assert torch.equal(blocks[0], own[0])


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"reduce": False, "bins": (2, 3)}], ids=["unequal", "unreduced"])
def test_pruned_pspnet_of_either_order_equals_the_release(settings):
    torch.manual_seed(1)
    model = create_model("pspnet", backbone=DEEP | {"width": 0.25}, num_classes=4, concat="ascending", **settings)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    PRUNERS.build("l1", keep_ratio=0.5, allocation="global").prune_(model.eval(), 0.5, NoCalibration())
    assert settings or len({layer.conv.out_channels for layer in model.reduce}) > 1  # type: ignore[union-attr]
    released, own = copy.deepcopy(model), copy.deepcopy(model)
    released.descending = True  # type: ignore[assignment]
    x = torch.randn(1, 3, 65, 65)
    for network in (released, own):
        state, _ = convert_state_dict(network, to_caffe_state_dict(model))
        network.load_state_dict(state, strict=False)
        torch.testing.assert_close(network(x).main, model(x).main, rtol=1e-4, atol=1e-5)


def test_the_order_of_wider_networks_is_that_of_their_layers():
    model = create_model("pspnet", backbone=DEEP | {"width": 0.125}, num_classes=4, concat="ascending")
    blocks = [torch.full((1, width, 1, 1), float(index)) for index, width in enumerate((512, 128, 128, 128, 128))]
    converted = model.convert_tensor("caffe", "fuse.conv.weight", torch.cat(blocks, 1))
    assert torch.equal(converted, torch.cat([blocks[index] for index in (0, 4, 3, 2, 1)], 1))


@pytest.mark.integration
@pytest.mark.parametrize("name", ["fcn_resnet50", pytest.param("fcn_resnet101", marks=pytest.mark.slow)])
@torch.no_grad()
def test_torchvision_fcn_weights_give_its_logits(name, tmp_path, capsys):
    reference = randomize_bn(
        getattr(torchvision.models.segmentation, name)(weights=None, weights_backbone=None, num_classes=5, aux_loss=True)
    )
    model = create_model("fcn_dilated", backbone=name.removeprefix("fcn_"), num_classes=5)
    report = load(model, reference.state_dict(), tmp_path)
    assert not report.unused
    assert not report.reinitialized
    assert "layout of torchvision" in capsys.readouterr().out
    x = torch.randn(1, 3, 65, 97)
    upsampled = torch.nn.functional.interpolate(model.eval()(x).main, (65, 97), mode="bilinear", align_corners=False)
    expected = reference(x)["out"]
    assert torch.allclose(upsampled, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


def test_published_weights_load_by_name_with_classes_matched(monkeypatch):
    entry = "FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1"
    with torch.device("meta"):
        reference = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    state = {k: torch.rand(v.shape) for k, v in reference.state_dict().items()}
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda self, **_: state)
    model = create_model("fcn_dilated", num_classes=3)
    INITS.build("checkpoint", model, ("person", "background", "forklift"), ckpt=entry)
    categories = torchvision.models.get_weight(entry).meta["categories"]
    own = model.state_dict()["score.weight"]
    assert torch.equal(own[0], state["classifier.4.weight"][categories.index("person")])
    assert torch.equal(own[1], state["classifier.4.weight"][0])
    with pytest.raises(ConfigError, match="torchvision publishes no such weights"):
        INITS.build("checkpoint", model, ("person",), ckpt="FCN_ResNet50_Weights.COCO_V9")


MMSEG = {
    "pspnet_r50-d8_4xb2-40k_cityscapes-512x1024": ("pspnet", {"first_block_dilation": "half", "align_corners": False}),
    "fcn_r50-d8_4xb2-40k_cityscapes-512x1024": ("fcn_dilated", {"convs": 2, "concat_input": True}),
}


@pytest.mark.parametrize("config", MMSEG)
@torch.no_grad()
def test_mmsegmentation_weights_give_its_logits(config, tmp_path):
    pytest.importorskip("mmcv", reason='pip install -e ".[peers]"')
    from benchmarks.harness.mmseg_import import mmseg_model

    name, settings = MMSEG[config]
    reference = randomize_bn(mmseg_model(config))
    model = create_model(name, backbone={"name": "resnet50", "stem": "v1c"}, num_classes=19, **settings)
    report = load(model, reference.state_dict(), tmp_path)
    assert not report.reinitialized
    assert not report.unused
    x = torch.randn(1, 3, 65, 97)
    expected = reference.decode_head(reference.backbone(x))
    assert torch.allclose(model.eval()(x).main, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


@pytest.mark.integration
def test_shape_mismatches_are_listed_by_layer(tmp_path, capsys):
    state = to_caffe_state_dict(build("pspnet"))
    state["conv5_4.weight"] = state["conv5_4.weight"][:, :2560]
    report = load(build("pspnet"), state, tmp_path)
    assert report.mismatched == ("fuse.conv.weight (512, 4096, 3, 3) in the model, (512, 2560, 3, 3) in the file",)
    assert "shape mismatch: fuse.conv.weight" in capsys.readouterr().out


@pytest.mark.integration
def test_a_layout_without_such_a_model_is_rejected():
    fcn = create_model("fcn", backbone="vgg16", num_classes=3)
    with pytest.raises(ConfigError, match="layout of mmseg, which has no FCN"):
        convert_state_dict(fcn, {"decode_head.conv_seg.weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match="layout of caffe, which has no FCN"):
        to_caffe_state_dict(fcn)
