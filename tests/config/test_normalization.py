"""A training normalizes images like the training of its weights."""

from __future__ import annotations

import shlex
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from weight_files import write_run

from segzoo.cli.app import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.build_training import build_training
from segzoo.config.cross_checks import training_warnings
from segzoo.config.from_weights import choose_normalization, has_unit_scale
from segzoo.config.validate import validation_errors
from segzoo.data.dataset_info import make_dataset_info
from segzoo.registry import ConfigError
from segzoo.types import IMAGENET, Normalization
from segzoo.weights.normalization import CAFFE, same_normalization, trained_normalization

MODEL = ("model=fcn_dilated", "backbone.width=0.125", "data.train_images=2", "data.val_images=1", "data.cache=false")
OWN = Normalization((131.0, 119.0, 97.0), (52.0, 54.0, 56.0))


def compose(*overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    parsed = parse_overrides("train", overrides)
    assert not parsed.errors, parsed.errors
    return resolve_config(parsed.jobs[0])


def write(path, name: str) -> str:
    """Write a weight file, and return its path."""
    state = {name: torch.ones(1)}
    if name == "segzoo":
        return str(write_run(path, {"score.weight": torch.ones(1)}, make_dataset_info("own", ("a", "b"), None, *OWN)))
    torch.save(state, path / "weights.pth")
    return str(path / "weights.pth")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("segzoo", OWN),
        ("conv1_1_3x3_s2.weight", CAFFE),
        ("conv1_1.weight", CAFFE),
        ("decode_head.conv_seg.weight", IMAGENET),
        ("classifier.4.weight", IMAGENET),
        ("layer1.0.conv1.weight", IMAGENET),
        ("features.0.weight", IMAGENET),
        ("backbone.c1.0.weight", None),
        ("c1.0.weight", None),
        ("encoder.weight", None),
    ],
)
def test_the_normalization_of_a_file_follows_from_its_metadata_or_names(tmp_path, name, expected):
    assert trained_normalization(write(tmp_path, name)) == expected


def test_published_weights_have_the_normalization_of_their_preset():
    assert trained_normalization("imagenet") == IMAGENET
    assert trained_normalization("FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1") == IMAGENET
    preset = torchvision.models.get_weight("ResNet50_Weights.IMAGENET1K_V1").transforms()
    assert [255 * value for value in preset.mean] == pytest.approx(IMAGENET.mean)


def test_roundings_of_the_same_statistics_are_equal():
    assert same_normalization(IMAGENET, Normalization(CAFFE.mean, (58.4, 57.1, 57.4)))
    assert not same_normalization(IMAGENET, CAFFE)
    assert not same_normalization(IMAGENET, Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.mark.integration
@pytest.mark.parametrize("name", ["segzoo", "conv1_1_3x3_s2.weight", "classifier.4.weight", "layer1.0.conv1.weight"])
@pytest.mark.parametrize("setting", ["init.ckpt", "backbone.weights"])
def test_weights_of_other_statistics_are_refused_until_the_words_of_the_message_are_typed(tmp_path, setting, name):
    path = write(tmp_path, name)
    start = (*MODEL, f"{setting}={path}")
    [error] = validation_errors("train", compose(*start)[0])
    assert f"{setting}={path} was trained on images with mean [" in error
    assert "but data=parts has mean [58.8, 58.8, 58.8] and std [48.9, 48.9, 48.9]" in error
    words = [word for word in shlex.split(error) if word.startswith(("data.mean=[", "data.std=["))]
    assert validation_errors("train", compose(*start, *(word.rstrip(",.") for word in words))[0]) == []


@pytest.mark.integration
def test_statistics_on_the_scale_0_to_1_are_explained(tmp_path):
    unit = ("data.mean=[0.485,0.456,0.406]", "data.std=[0.229,0.224,0.225]")
    [error] = validation_errors("train", compose(*MODEL, "backbone.weights=" + write(tmp_path, "layer1.0.conv1.weight"), *unit)[0])
    assert "on the scale 0 to 1, but images have 0 to 255. Set 'data.mean=[123.675,116.28,103.53]'" in error
    model: Any = SimpleNamespace(backbone=SimpleNamespace(trains_from_scratch=True))
    [warning] = training_warnings(compose(*MODEL, *unit)[0], model)
    assert "Set 'data.mean=[123.675,116.28,103.53]' 'data.std=[58.395,57.12,57.375]'" in warning
    assert training_warnings(compose(*MODEL)[0], model) == []


@pytest.mark.parametrize(
    ("normalization", "mean", "note"),
    [
        ("weights", [131.0, 119.0, 97.0], "normalization=weights: mean [131, 119, 97] and std [52, 54, 56], those of init.ckpt="),
        ("data", [58.8, 58.8, 58.8], "normalization=data: mean [58.8, 58.8, 58.8]"),
    ],
)
def test_the_normalization_is_taken_over_or_kept_when_asked(tmp_path, capsys, normalization, mean, note):
    run = write(tmp_path, "segzoo")
    overrides = (*MODEL, f"init.ckpt={run}", "init.match=index", "init.min_share=0", f"normalization={normalization}")
    config, recorded = compose(*overrides)
    assert validation_errors("train", config) == []
    components = build_training(config, recorded)
    model: Any = components.model
    assert list(components.info.mean) == mean and model.info == components.info
    assert components.config["data"]["mean"] == list(components.val_set.info.mean) == mean
    assert note in capsys.readouterr().out


def test_an_unknown_normalization_is_reported(tmp_path, capsys):
    save_file({"score.weight": torch.ones(1)}, tmp_path / "bare.safetensors")
    overrides = (*MODEL, f"init.ckpt={tmp_path}/bare.safetensors", "init.match=index", "init.min_share=0")
    build_training(*compose(*overrides))
    assert "bare.safetensors does not record how its images were normalized. Used here: mean [58.8" in capsys.readouterr().out
    [error] = validation_errors("train", compose(*MODEL, "normalization=weights")[0])
    assert error.startswith("normalization=weights: the training starts from no weights. Set init.ckpt=")
    with pytest.raises(ConfigError, match="a run that continues from another keeps the values of its data. Omit normalization"):
        choose_normalization(compose(*MODEL)[0] | {"resume": "runs/x"}, normalization="weights")
    [error] = validation_errors("train", compose(*overrides, "normalization=weights")[0])
    assert "Set data.mean and data.std to the values that it was trained with" in error


def test_the_weights_that_are_loaded_last_decide(tmp_path):
    sections = {"init": {"ckpt": write(tmp_path, "segzoo")}, "backbone": {"weights": "imagenet"}}
    config = {"data": {"name": "parts"}} | sections
    data, note = choose_normalization(config, normalization="weights")
    assert Normalization.of(data) == OWN and "those of init.ckpt=" in note


def test_images_that_are_not_normalized_have_no_unit_scale():
    assert not has_unit_scale(Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    assert has_unit_scale(Normalization((0.5, 0.5, 0.0), (0.5, 0.5, 0.5)))
