"""data=auto on the command line."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from image_files import noise, save

from segzoo.cli.compose import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.validate import validation_errors
from segzoo.registry import ConfigError


def resolve(*overrides: str, config_dir: str | None = None) -> tuple[dict, dict]:
    parsed = parse_overrides("train", overrides, config_dir=config_dir)
    assert not parsed.errors, parsed.errors
    return resolve_config(parsed.jobs[0])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for number in range(12):
        save(tmp_path / f"my parts/images/{number}.png", noise(40, 40, number))
        save(tmp_path / f"my parts/masks/{number}.png", np.eye(40, dtype=np.uint8) * 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my parts"


def test_a_guess_is_shown_and_written_and_used_when_accepted(folder):
    words = ["data=auto", f"data.root='{folder}'"]
    with pytest.raises(
        ConfigError, match=r"(?s)labels: masks/\{stem\}\.png.*written to data_configs/data/my_parts\.yaml"
    ) as caught:
        resolve(*words)
    assert "'data.accept=true'" not in str(caught.value)  # no quotes where the shell needs none
    accepted, recorded = resolve(*words, "data.accept=true")
    assert accepted["data"]["name"] == recorded["data"]["name"] == "folder" and accepted["data"]["root"] == str(folder)
    assert validation_errors("train", accepted) == []
    *_, config_dir, override = shlex.split(str(caught.value).splitlines()[-1].rstrip("."))
    edited, _ = resolve(override, config_dir=config_dir)
    assert edited["data"]["classes"] == accepted["data"]["classes"] == ["class_0", "class_1", "class_2"]
    assert validation_errors("train", edited) == []


def test_an_edited_guess_is_not_replaced(folder):
    words = ["data=auto", f"data.root='{folder}/'"]  # another spelling, so that it is guessed again
    (folder.parent / "data_configs/data").mkdir(parents=True)
    path = folder.parent / "data_configs/data/my_parts.yaml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists and differs, and was not replaced"):
        resolve(*words)
    assert path.read_text() == "mine"


def test_the_environment_variable_of_the_root_is_recorded(folder, monkeypatch):
    monkeypatch.setenv("PARTS", str(folder))
    accepted, recorded = resolve("data=auto", "data.root=${oc.env:PARTS}", "data.accept=true")
    assert accepted["data"]["root"] == str(folder) and recorded["data"]["root"] == "${oc.env:PARTS}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data.root=absent"], r"data\.root=absent: there is no such folder"),
        (["data.root=masks", "data.accept=maybe"], r"data\.accept='maybe': expected true or false"),
    ],
)
def test_invalid_settings_are_named(folder, monkeypatch, words, expected):
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=expected):
        raise ConfigError(validation_errors("train", resolve("data=auto", *words)[0]))
