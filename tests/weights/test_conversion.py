"""Other projects' weights: the same logits as theirs on the same image, there and back, and clear words where they do not fit."""

from __future__ import annotations

import pytest
import torch
import torchvision

from segzoo.api import create_model
from segzoo.registry import INITS, ConfigError
from segzoo.weights import convert_state_dict, to_caffe_state_dict

DEEP = {"name": "resnet50", "stem": "deep", "stride_at": "1x1"}
RELEASED = {
    "icnet": {"backbone": DEEP | {"width": 0.5}, "num_classes": 19},
    "pspnet": {"backbone": DEEP, "num_classes": 7},
    "pspnet_ascending": {"backbone": DEEP, "num_classes": 7, "concat": "ascending"},
}


def shaken(model):
    """The model in evaluation, with norms that are no identity, so that a tensor in the wrong place shows."""
    generator = torch.Generator().manual_seed(4)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 + 0.6)
    return model.eval()


def released(name):
    torch.manual_seed(1)
    return create_model(name.partition("_")[0], **RELEASED[name])


def take(model, state, tmp_path, **given):
    """Loads a state dict the way ``init.ckpt=<file>`` does."""
    torch.save(state, tmp_path / "theirs.pth")
    return INITS.build("checkpoint", model, None, ckpt=str(tmp_path / "theirs.pth"), match="index", **given)


@pytest.mark.parametrize("folded", [False, True], ids=["with_norms", "folded"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n == "pspnet_ascending" else []) for n in RELEASED])
@torch.no_grad()
def test_caffe_layout_there_and_back_gives_the_same_logits(name, folded, tmp_path):
    ours, again = shaken(released(name)), shaken(released(name))
    for parameter in again.parameters():
        parameter.zero_()
    x = torch.randn(1, 3, 65, 97)
    state = to_caffe_state_dict(ours, folded=folded)
    report = take(again, state, tmp_path)
    assert not report.left_over
    assert all(part.startswith("aux.") for part in report.reinitialized)
    wanted = ours(x).main
    assert torch.allclose(again(x).main, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max())


def test_caffe_names_are_the_prototxts_and_folding_leaves_its_count():
    state = to_caffe_state_dict(released("icnet"))
    assert {k.partition(".")[0] for k in state} >= {
        "conv1_1_3x3_s2", "conv1_1_3x3_s2/bn", "conv2_1_1x1_reduce", "conv3_1_1x1_proj/bn", "conv4_6_3x3", "conv5_3_1x1_increase",
        "conv5_4_k1", "conv_sub4", "conv3_1_sub2_proj/bn", "conv_sub2", "conv1_sub1", "conv3_sub1_proj", "conv6_cls",
    }  # fmt: skip
    layers = {k.rpartition(".")[0] for k in state if "/bn" not in k}
    assert len(layers) == 64  # as in the prototxt, conv6_cls included
    folded = to_caffe_state_dict(released("icnet"), folded=True)
    assert sum(t.numel() for t in folded.values()) == 6_685_715  # the released icnet_cityscapes.prototxt


def test_caffe_pspnet_reads_bgr_and_joins_bins_descending():
    ours = released("pspnet_ascending")
    state = to_caffe_state_dict(ours)
    assert torch.equal(state["conv1_1_3x3_s2.weight"][:, 0], ours.state_dict()["backbone.c1.0.weight"][:, 2])
    blocks = state["conv5_4.weight"].split([2048, 512, 512, 512, 512], 1)
    own = ours.state_dict()["fuse.conv.weight"].split([2048, 512, 512, 512, 512], 1)
    assert torch.equal(blocks[1], own[4])
    assert torch.equal(blocks[0], own[0])


@pytest.mark.parametrize("name", ["fcn_resnet50", pytest.param("fcn_resnet101", marks=pytest.mark.slow)])
@torch.no_grad()
def test_torchvisions_fcn_gives_its_logits(name, tmp_path, capsys):
    theirs = shaken(
        getattr(torchvision.models.segmentation, name)(weights=None, weights_backbone=None, num_classes=5, aux_loss=True)
    )
    ours = create_model("fcn_dilated", backbone=name.removeprefix("fcn_"), num_classes=5)
    report = take(ours, theirs.state_dict(), tmp_path)
    assert not report.left_over
    assert not report.reinitialized
    assert "layout of torchvision" in capsys.readouterr().out
    x = torch.randn(1, 3, 65, 97)
    grown = torch.nn.functional.interpolate(ours.eval()(x).main, (65, 97), mode="bilinear", align_corners=False)
    wanted = theirs(x)["out"]
    assert torch.allclose(grown, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max())


def test_published_weights_are_taken_by_name_and_their_classes_matched(monkeypatch):
    entry = "FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1"
    with torch.device("meta"):
        theirs = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    state = {k: torch.rand(v.shape) for k, v in theirs.state_dict().items()}
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda self, **_: state)
    ours = create_model("fcn_dilated", num_classes=3)
    INITS.build("checkpoint", ours, ("person", "background", "forklift"), ckpt=entry)
    categories = torchvision.models.get_weight(entry).meta["categories"]
    own = ours.state_dict()["score.weight"]
    assert torch.equal(own[0], state["classifier.4.weight"][categories.index("person")])
    assert torch.equal(own[1], state["classifier.4.weight"][0])
    with pytest.raises(ConfigError, match="torchvision publishes no such weights"):
        INITS.build("checkpoint", ours, ("person",), ckpt="FCN_ResNet50_Weights.COCO_V9")


MMSEG = {
    "pspnet_r50-d8_4xb2-40k_cityscapes-512x1024": ("pspnet", {"first_block_dilation": "half", "align_corners": False}),
    "fcn_r50-d8_4xb2-40k_cityscapes-512x1024": ("fcn_dilated", {"convs": 2, "concat_input": True}),
}


@pytest.mark.parametrize("config", MMSEG)
@torch.no_grad()
def test_mmsegmentations_weights_give_its_logits(config, tmp_path):
    pytest.importorskip("mmcv", reason='pip install -e ".[peers]"')
    from benchmarks.harness.mmseg_import import mmseg_model

    name, settings = MMSEG[config]
    theirs = shaken(mmseg_model(config))
    ours = create_model(name, backbone={"name": "resnet50", "stem": "v1c"}, num_classes=19, **settings)
    report = take(ours, theirs.state_dict(), tmp_path)
    assert not report.reinitialized
    assert not report.left_over
    x = torch.randn(1, 3, 65, 97)
    wanted = theirs.decode_head(theirs.backbone(x))
    assert torch.allclose(ours.eval()(x).main, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max())


def test_misfits_are_listed_layer_by_layer(tmp_path, capsys):
    state = to_caffe_state_dict(released("pspnet"))
    state["conv5_4.weight"] = state["conv5_4.weight"][:, :2560]
    report = take(released("pspnet"), state, tmp_path)
    assert report.misfits == ("fuse.conv.weight (512, 4096, 3, 3) here, (512, 2560, 3, 3) in the file",)
    assert "other shape: fuse.conv.weight" in capsys.readouterr().out


def test_a_layout_without_such_a_model_is_refused():
    fcn = create_model("fcn", backbone="vgg16", num_classes=3)
    with pytest.raises(ConfigError, match="layout of mmseg, which has no FCN"):
        convert_state_dict(fcn, {"decode_head.conv_seg.weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match="layout of caffe, which has no FCN"):
        to_caffe_state_dict(fcn)
