"""Weights of another backbone: what they are, and what to set."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from segzoo.api import create_model
from segzoo.registry import BACKBONES, INITS, ConfigError
from segzoo.weights import load_backbone, to_caffe_state_dict
from segzoo.weights.identify import identify_backbone

BACKBONE_SETTINGS = [
    {"name": "resnet50", "stem": "basic", "width": 1.0},
    {"name": "resnet101", "stem": "basic", "width": 0.5},
    {"name": "resnet50", "stem": "deep", "width": 0.25},
    {"name": "resnet101", "stem": "v1c", "width": 0.125},
    {"name": "vgg16", "batch_norm": True},
    {"name": "vgg16", "batch_norm": False},
]


@pytest.mark.parametrize("settings", BACKBONE_SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_segzoos_backbones_are_identified_alone_and_in_a_model(settings):
    with torch.device("meta"):
        model = create_model("fcn_dilated", settings, num_classes=3)
    assert identify_backbone(model.state_dict()) == identify_backbone(model.backbone.state_dict()) == settings


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet101", BACKBONE_SETTINGS[0] | {"name": "resnet101"}),
        ("vgg16_bn", BACKBONE_SETTINGS[4]),
        ("vgg16", BACKBONE_SETTINGS[5]),
    ],
)
def test_torchvisions_backbones_are_identified(name, settings):
    with torch.device("meta"):
        assert identify_backbone(getattr(torchvision.models, name)(weights=None).state_dict()) == settings


def test_models_of_other_libraries_are_identified():
    with torch.device("meta"):
        fcn = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None)
        icnet = create_model("icnet", {"name": "resnet50", "stem": "deep", "stride_at": "1x1", "width": 0.5})
        mobilenet = torchvision.models.mobilenet_v2(weights=None)
    assert identify_backbone(fcn.state_dict()) == BACKBONE_SETTINGS[0]
    assert identify_backbone(to_caffe_state_dict(icnet)) == {"name": "resnet50", "stem": "deep", "width": 0.5}
    assert identify_backbone(mobilenet.state_dict()) == identify_backbone({}) == {}


def small(width: float, stem: str = "basic", model: str = "fcn_dilated"):
    return create_model(model, {"name": "resnet50", "width": width, "stem": stem}, num_classes=2)


def listed_file(lines: list[str]) -> Path:
    return Path(lines[2].partition("All layers are listed in ")[2])


def test_weights_of_another_backbone_are_explained_in_three_lines(tmp_path):
    other = small(0.25)
    torch.save(other.state_dict(), tmp_path / "file.pth")
    with pytest.raises(ConfigError) as error:
        INITS.build("checkpoint", small(0.125, "deep"), None, ckpt=str(tmp_path / "file.pth"), match="index")
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and all(len(line) < 300 for line in lines)
    assert (
        lines[1]
        == "The file is a resnet50 of width 0.25 with the basic stem; this is a resnet50 of width 0.125 with the deep stem."
    )
    assert lines[2].startswith(
        "Set backbone.stem=basic backbone.width=0.25, or set init.ckpt to weights of this backbone. All layers"
    )
    listing = listed_file(lines).read_text()
    assert "backbone.c5.2.conv3.weight (256, 64, 1, 1) in the model, (512, 128, 1, 1) in the file" in listing
    assert all(name in listing for name in other.state_dict() if "num_batches" not in name)
    words = dict(word.strip(",").split("=") for word in shlex.split(lines[2]) if "=" in word)
    fitting = small(float(words["backbone.width"]), words["backbone.stem"])
    assert INITS.build("checkpoint", fitting, None, ckpt=str(tmp_path / "file.pth"), match="index").fraction == 1


@pytest.mark.parametrize(
    ("names", "second", "third"),
    [
        (
            ["a", "b", "c", "d"],
            "no backbone that segzoo knows: 4 tensors such as a, b, c; this is",
            "Set backbone.weights to weights of",
        ),
        (
            ["conv1.weight", "layer3.22.conv3.weight", "layer4.0.conv3.weight"],
            "a resnet101 of width 1",
            "Set backbone=resnet101 backbone.stem=basic backbone.width=1.0, or",
        ),
        (
            ["conv1.weight", "layer3.5.conv3.weight", "layer4.0.conv3.weight"],
            "a resnet50 of width 1",
            "Set backbone.width=1.0, or",
        ),
    ],
)
def test_unknown_and_deeper_backbones_are_explained(tmp_path, names, second, third):
    shapes = {"conv1.weight": (64, 3, 7, 7), "layer4.0.conv3.weight": (2048, 1, 1, 1)}
    save_file({name: torch.ones(shapes.get(name, (1,))) for name in names}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError) as error:
        load_backbone(BACKBONES.build("resnet50", width=0.125), str(tmp_path / "w.safetensors"))
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and second in lines[1] and lines[2].startswith(third)


def test_the_same_backbone_with_few_matches_is_explained(tmp_path):
    state = small(0.125).backbone.state_dict()
    kept = ("c1.", "c4.5.conv3", "c5.0.conv3")
    save_file({name: tensor for name, tensor in state.items() if name.startswith(kept)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="part of the file is missing or has other names"):
        load_backbone(small(0.125).backbone, str(tmp_path / "w.safetensors"))
