"""Presets are the sections that the command line composes."""

from __future__ import annotations

import pytest

import segzoo
from segzoo.cli.compose import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.presets import backbone_preset, model_preset, preset_error, preset_names
from segzoo.registry import ConfigError


@pytest.mark.parametrize("name", preset_names("model"))
def test_a_model_preset_is_what_the_command_line_composes(name):
    config = resolve_config(parse_overrides("train", [f"model={name}", "data=voc"]).jobs[0])[0]
    preset = model_preset(name)
    assert preset.model == config["model"]
    assert backbone_preset(preset.backbone) | preset.backbone_settings == config["backbone"]


def test_create_model_takes_every_name_of_the_command_line():
    half = segzoo.create_model("icnet_half", num_classes=19)
    assert half.backbone.channels["c5"] == 1024 and "icnet_half" in segzoo.list_models()
    assert repr(half) == "<ICNet on resnet50, 19 classes, 6.7 M parameters>" and "Conv2d" in repr(half.backbone)
    assert segzoo.create_model("icnet_half", {"name": "resnet50", "width": 0.25}).backbone.channels["c5"] == 512
    fcn = segzoo.create_model("fcn32s", {"name": "resnet50", "width": 0.125}, num_classes=3)
    assert fcn.stride == 32
    with pytest.raises(ConfigError, match="Did you mean 'icnet_half'"):
        segzoo.create_model("icnet_halv")
    with pytest.raises(ConfigError, match="model=icnet_half sets backbone.width=0.5"):
        segzoo.create_model("icnet_half", "vgg16")


def test_a_model_that_needs_another_backbone_says_so():
    error = preset_error("icnet_half", "vgg16_bn")
    assert error == (
        "model=icnet_half sets backbone.width=0.5, which backbone=vgg16_bn does not have. Set backbone=resnet101|resnet101_deep|resnet50|"
        "resnet50_caffe|resnet50_deep|resnet50_deep_half, or another model, such as model=icnet."
    )
    assert preset_error("icnet_half", "resnet50") is None and preset_error("mine", "vgg16") is None
    assert "backbone=vgg16|vgg16_bn|" in (preset_error("fcn_pad100", "resnet50") or "")


def test_dir_shows_the_public_names():
    names = {"ConfigError", "create_model", "from_pretrained", "list_backbones", "list_models", "load", "__version__"}
    assert set(dir(segzoo)) == names
