"""Every YAML matches the signature of its builder and composes without errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from segzoo.cli.app import resolve_config
from segzoo.cli.compose import compose as compose_file
from segzoo.cli.compose import hydra_composer
from segzoo.cli.overrides import parse_overrides
from segzoo.config.build import build_protocol
from segzoo.config.checks.idle import idle_settings
from segzoo.config.commands import COMMANDS
from segzoo.config.sections import LIST_SECTIONS, SECTIONS
from segzoo.config.validate import validation_errors
from segzoo.layers.resize import corner_size
from segzoo.registry import type_error

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = [(group, path.stem) for group in SECTIONS for path in sorted((CONF / group).glob("*.yaml"))]


def compose(command: str, *overrides: str) -> dict:
    parsed = parse_overrides(command, overrides)
    assert not parsed.errors, parsed.errors
    return resolve_config(parsed.jobs[0])[0]


@pytest.mark.parametrize("group", SECTIONS)
def test_every_builder_has_a_yaml(group):
    files = {path.stem for path in (CONF / group).glob("*.yaml")}
    assert set(SECTIONS[group].names()) <= files


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda x: x)
def test_yaml_lists_every_setting(group, option):
    with hydra_composer() as hydra:
        config = compose_file(hydra, f"{group}/{option}", [])
    section: dict = OmegaConf.to_container(config.get(group, OmegaConf.create()))  # type: ignore[assignment]
    if group in LIST_SECTIONS:
        section = next(({"name": name, **settings} for name, settings in section.items()), {"name": "tensorboard"})  # logger=none
    known = SECTIONS[group].settings(section["name"])
    assert set(section) == {"name", *known}
    for key, setting in known.items():
        if section[key] == "???":
            assert setting.default is setting.REQUIRED
            continue
        assert type_error(section[key], setting.type) is None or "${" in str(section[key])
        if option == section["name"] and setting.default is not setting.REQUIRED:
            assert section[key] == _lists(setting.default), f"{group}/{option}.yaml: {key}"


def _lists(value):
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def test_protocols_bring_their_post_processing():
    def built(*overrides):
        return build_protocol(compose("eval", "ckpt=any", *overrides)).to_dict()

    deeplab = built("protocol=deeplab_crf")
    assert deeplab["post"].startswith("crf ") and deeplab["pad_multiple"] == 8
    assert built("protocol=deeplab_crf", "post=none") == built("protocol.pad_multiple=8")
    assert built("post=crf")["post"] == deeplab["post"]
    released = built("protocol=deeplab_crf", "protocol.pad_multiple=512")
    assert corner_size((375, 500), deeplab["pad_multiple"]) == (377, 505)  # as the comment of the protocol says
    assert corner_size((375, 500), released["pad_multiple"]) == (513, 513)


@pytest.mark.parametrize("command", COMMANDS)
def test_tool_yaml_lists_every_setting(command):
    keys = {key for key in yaml.safe_load((CONF / f"{command}.yaml").read_text()) if key != "defaults" and key not in SECTIONS}
    assert keys == set(COMMANDS[command].settings())


@pytest.mark.parametrize(
    ("model", "backbone"),
    [
        pytest.param(model, backbone, marks=[pytest.mark.integration] if backbone == "resnet101" else [])
        for model in sorted(p.stem for p in (CONF / "model").glob("*.yaml"))
        for backbone in ("vgg16_bn", "resnet50", "resnet101")
    ],
)
def test_every_model_and_backbone_is_valid(model, backbone):
    if model == "icnet_half" and backbone == "vgg16_bn":
        pytest.skip("only ResNets have a width setting")
    if model == "fcn_pad100" and backbone != "vgg16_bn":
        pytest.skip("the padding of the FCN release needs VGG")
    joint = ["model.msc=joint"] if model == "deeplab_msc_largefov" else []  # frozen needs a trained network
    assert validation_errors("train", compose("train", f"model={model}", f"backbone={backbone}", *joint)) == []


@pytest.mark.parametrize("experiment", sorted(p.stem for p in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_is_valid_and_has_no_idle_setting(experiment):
    config = compose("train", f"experiment={experiment}")
    errors = validation_errors("train", config)
    assert (errors == []) if experiment != "voc_msc_largefov" else ("model.msc=frozen" in errors[0] and len(errors) == 1)
    assert idle_settings("train", config) == []
    header = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()[:12]
    assert any("command:" in line for line in header) and any("hardware:" in line for line in header)
