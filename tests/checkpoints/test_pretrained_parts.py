"""The network that segzoo comes with."""

from __future__ import annotations

import importlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segzoo
from segzoo.checkpoints.paths import PRETRAINED, is_pretrained, pretrained_names, resolve_verified_file, resolve_weight_file
from segzoo.checkpoints.schema import CheckpointError
from segzoo.checkpoints.store import read_manifest, verify_checkpoint
from segzoo.config.build import build_data
from segzoo.config.checks.early import early_errors
from segzoo.evaluation.evaluator import evaluate
from segzoo.inference.sources.embedded import SIZE
from segzoo.inference.sources.kinds import source_kind
from segzoo.inference.sources.opening import open_source
from segzoo.io import sha256
from segzoo.layers.parameters import count_parameters

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "pretrained_parts.json"


@pytest.fixture(scope="module")
def network():
    return segzoo.load("parts", device="cpu", runtime="eager")


def test_the_file_is_the_measured_one(network):
    file, row = resolve_verified_file("parts"), json.loads(RESULT.read_text())["rows"]
    assert file == PRETRAINED / "parts" / "model.safetensors" and not verify_checkpoint(file.parent)
    assert file.stat().st_size == row["stored"]["bytes"] <= 4_000_000
    assert sha256(file) == row["stored"]["sha256"] and read_manifest(file.parent)["scores"]["miou"] == row["stored"]["miou"] >= 0.75
    full, pruned = (next(stage["params"] for stage in row["stages"] if stage["what"] == what) for what in ("before", "fine-tuned"))
    assert count_parameters(network) == pruned and 0.2 < pruned / full < 0.3


def test_it_recognizes_new_images(network):
    data = {"name": "parts", "height": SIZE[0], "width": SIZE[1], "val_images": 4, "seed": 7}
    scores = evaluate(network, build_data(data, "val"), network.info, device="cpu", workers=0).scores
    assert scores.miou > 0.7 and scores.aacc > 0.9


def test_a_path_takes_precedence_over_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrained_names() == ["parts"] and is_pretrained("parts") and not is_pretrained("./parts/x")
    with pytest.raises(CheckpointError, match="pats does not exist. Did you mean 'parts'. Set .* or a pretrained network: parts"):
        resolve_weight_file("pats")
    (tmp_path / "runs" / "pitting").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="runs/pittin does not exist. Did you mean 'pitting'"):
        resolve_weight_file("runs/pittin")
    (tmp_path / "parts").mkdir()
    with pytest.raises(CheckpointError, match="parts is neither a run .* It hides the pretrained network .*/pretrained/parts$"):
        resolve_weight_file("parts")
    assert not is_pretrained("parts") and source_kind("parts") == "images"
    (tmp_path / "parts" / "model.safetensors").touch()
    assert resolve_weight_file("parts") == Path("parts/model.safetensors")


def test_settings_of_weights_take_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for section in ({"init": {"ckpt": "parts"}}, {"distill": {"ckpt": "parts"}}, {"backbone": {"weights": "parts"}}):
        assert early_errors("train", section) == []
    assert early_errors("eval", {"ckpt": "parts"}) == []
    assert "there is no such run" in str(early_errors("train", {"resume": "parts"}))
    assert segzoo.from_pretrained("parts", device="cpu").info == segzoo.load("parts", device="cpu").info


def test_images_of_the_embedded_data_set_are_a_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = open_source(tmp_path / "out", source="parts")
    items = pickle.loads(pickle.dumps(list(source.items)))  # as rank 0 sends them
    assert source.total == len(items) == 8 and items[0].name == "val_00000" and items[0].path is None
    assert (items[1].read() == build_data({"name": "parts", "height": SIZE[0], "width": SIZE[1]}, "val")[1].image).all()
    coco = early_errors("predict", {"ckpt": "parts", "source": "parts", "polygons": "coco"})
    assert coco == ["polygons=coco names image files, and source=parts has none. Set polygons=labelme, which embeds the images."]


@pytest.mark.integration
def test_the_first_command_shows_something(network, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    predict = importlib.import_module("segzoo.tools.predict")
    monkeypatch.setattr("sys.argv", ["predict", "ckpt=parts", "source=parts", "out=shown"])
    predict.main()
    assert "8 images in" in capsys.readouterr().out
    assert len(list((tmp_path / "shown" / "overlays").glob("*.png"))) == 8
    for item in open_source(tmp_path / "out", source="parts").items:
        label = np.array(Image.open(tmp_path / "shown" / "labels" / f"{item.name}.png"))
        assert (network.predict(item.read()).labels == label).mean() > 0.9999, "the tool fuses batch norm"
    scoring = importlib.import_module("segzoo.tools.eval")
    monkeypatch.setattr("sys.argv", ["eval", "ckpt=parts", "data.val_images=4", "workers=0", "report=false", "out=scores"])
    scoring.main()
    assert json.loads((tmp_path / "scores" / "summary.json").read_text())["images"] == 4
