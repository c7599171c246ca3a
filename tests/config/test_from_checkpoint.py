"""The data section of a checkpoint, and settings laid over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from weight_files import write_run

from segzoo.config.from_checkpoint import dataset_config, load_checkpoint
from segzoo.registry import ConfigError
from segzoo.types import DatasetInfo
from segzoo.workflows.compare.evaluations import StoredEvaluation
from segzoo.workflows.compare.outside import data_section


def metadata(**data) -> dict:
    section = {"name": "folder", "root": "${oc.env:SEGZOO_DATA,data}/mine", "classes": ["a", "b"], "title": "mine", **data}
    return {"config": {"data": section}, "dataset": {"classes": ["a", "b"]}}


def test_all_images_need_nothing_that_separates_the_splits():
    trained = metadata(images="images/{stem}.*", labels="labels/{stem}.png", lists="{split}.txt")
    with pytest.raises(ConfigError, match="nothing separates train from val"):
        dataset_config(trained, {"lists": None})
    assert dataset_config(trained, {"lists": None}, "all")["lists"] is None
    scored = StoredEvaluation("run", Path(), {"per_class": {"a": {}, "b": {}}}, np.zeros(0), None, {}, trained["config"])
    assert data_section(scored, {"lists": None}, "all")["lists"] is None


def test_settings_without_a_name_change_the_data_of_the_checkpoint(monkeypatch):
    monkeypatch.setenv("SEGZOO_DATA", "/sets")
    assert dataset_config(metadata(), None)["root"] == "/sets/mine"
    moved = dataset_config(metadata(), {"root": "away", "lists": "{split}.txt"})
    assert moved == metadata()["config"]["data"] | {"root": "away", "lists": "{split}.txt"}
    with pytest.raises(ConfigError, match="data.rot: data 'folder' has no such setting. Did you mean 'root'"):
        dataset_config(metadata(), {"rot": "away"})
    with pytest.raises(ConfigError, match="the checkpoint was trained on a, b"):
        dataset_config(metadata(), {"classes": ["a", "c"]})
    trained = metadata()
    trained["dataset"] |= {"mean": [100.0] * 3, "std": [50.0] * 3}
    with pytest.raises(ConfigError, match=r"data.mean=\[0, 0, 0\] contradicts the checkpoint, whose images were normalized with"):
        dataset_config(trained, {"mean": [0, 0, 0], "std": [50.0] * 3})
    without = metadata()
    del without["config"]["data"]
    with pytest.raises(ConfigError, match="does not say which data it was trained on. Set data=<name>"):
        dataset_config(without, None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("root", "${oc.env:SECRET}"),
        ("root", "${oc.env:SEGZOO_DATA}/${oc.env:SECRET}"),
        ("title", "${oc.env:SEGZOO_DATA}"),
        ("images", "${x}"),
        ("images", ["{split}/{stem}.png", "${oc.env:SECRET}/{stem}.png"]),
    ],
)
def test_a_checkpoint_reads_no_other_variable(key, value, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    with pytest.raises(ConfigError, match=rf"Set data.{key}=<value>") as error:
        dataset_config(metadata(**{key: value}), None)
    assert "hunter2" not in str(error.value)
    given = dataset_config(metadata(**{key: value}), {key: "{split}/{stem}.png"})
    assert given[key] == "{split}/{stem}.png"


def test_only_255_is_ignored(tmp_path):
    info = DatasetInfo("own", ("a", "b"), ((0, 0, 0), (1, 1, 1)), ignore=0)
    run = write_run(tmp_path, {"score.weight": torch.ones(1)}, info)
    with pytest.raises(ConfigError, match="the ignored train id is 0, expected 255: map the ignored values.*data.label_map"):
        load_checkpoint(ckpt=str(run))
