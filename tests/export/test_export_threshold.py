"""Thresholds of exported files: in their labels, their metadata and their bundle."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from predictions import predict_source
from toy_training import INFO, Toy, ToyData

from segzoo.config.build import build_protocol
from segzoo.config.from_export import load_network, network_protocol
from segzoo.evaluation.evaluator import evaluate
from segzoo.evaluation.scores.build import build_scores
from segzoo.export.exporter import LabeledImages, export_model
from segzoo.export.formats import ExportModel
from segzoo.inference.exported.network import ExportedNetwork, open_exported
from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol
from segzoo.inference.threshold import Threshold, make_threshold, with_threshold
from segzoo.registry import ConfigError
from segzoo.types import ParityError

VALUES = {"road": 0.34, "tree": 0.36}
THRESHOLD = make_threshold(INFO, VALUES)
WITH_THRESHOLD = InferenceProtocol(threshold=THRESHOLD)
SECTIONS: dict[str, Any] = {"model": {"name": "icnet"}, "backbone": {"name": "resnet50"}, "data": {"name": "parts"}}
WHOLE: dict[str, Any] = {"protocol": {"name": "whole"}, "post": {"name": "none"}}


class Exportable(Toy):
    threshold = None

    def fuse_for_inference_(self):
        return 0


class Large(ToyData):
    """Images that an exported file takes."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample._replace(image=np.tile(sample.image, (4, 4, 1)), label=np.tile(sample.label, (4, 4)))


DATA = Large(3, first=100, vary=True)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return Exportable().eval()


def in_python(model, output: str, followed: Threshold | None = THRESHOLD, **metadata: Any) -> ExportedNetwork:
    """An export that runs in Python."""
    wrapper = ExportModel(model, INFO.mean, INFO.std, input="uint8", output=output, threshold=followed)  # type: ignore[arg-type]

    @torch.no_grad()
    def call(batch):
        return [each.numpy() for each in wrapper(torch.from_numpy(batch))]

    interface = {"dataset": INFO.to_dict(), "input": "uint8", "output": output, "hw": None, "precision": "fp32"}
    interface |= {"align_corners": False, "threshold": followed and followed.values}
    return ExportedNetwork(call, interface | metadata, "fp32")


def confusion(network, protocol=WITH_THRESHOLD):
    return evaluate(network, DATA, INFO, protocol=protocol, device="cpu", workers=0).confusion.tolist()


@pytest.mark.parametrize("output", ["labels", "logits", "both"])
def test_files_score_as_the_network_with_the_threshold(model, output):
    expected, plain = confusion(model), confusion(model, SINGLE_PASS)
    assert expected != plain
    network = in_python(model, output)
    assert confusion(network) == expected
    assert confusion(in_python(model, output, None), SINGLE_PASS) == plain
    if network.has_logits:  # which follow any other threshold too
        other = with_threshold(SINGLE_PASS, INFO, THRESHOLD, threshold={"tree": 0.5})
        assert confusion(network, other) == confusion(model, other) != expected
        assert confusion(network, SINGLE_PASS) == plain
        assert confusion(network, InferenceProtocol(flip=True, threshold=THRESHOLD)) == confusion(
            model, InferenceProtocol(flip=True, threshold=THRESHOLD)
        )


def test_labels_are_those_of_a_batch(model):
    images = torch.from_numpy(np.stack([DATA[0].image, DATA[0].image[:, ::-1]]))
    expected = in_python(model, "labels").label_images(images)
    assert torch.equal(in_python(model, "logits").label_images(images), expected) and expected.dtype == torch.uint8
    scores = build_scores(INFO, scores=("calibration",))
    result = evaluate(in_python(model, "both"), DATA, INFO, protocol=WITH_THRESHOLD, extra=scores, device="cpu", workers=0)
    plain = build_scores(INFO, scores=("calibration",))
    assert result.extra == evaluate(model, DATA, INFO, extra=plain, device="cpu", workers=0).extra


def test_the_recorded_threshold_is_used_and_told(model):
    labels, both = in_python(model, "labels"), in_python(model, "both")
    protocol, notes = network_protocol(WHOLE, labels, INFO, {"config": {}})
    assert protocol == WITH_THRESHOLD and notes == ["'threshold={road:0.34,tree:0.36}' is recorded in the exported file"]
    protocol, notes = network_protocol(WHOLE, both, INFO, {"config": {}}, {"tree": 0.5})
    assert protocol.threshold == make_threshold(INFO, {"tree": 0.5})
    assert notes == ["'threshold={road:0.34,tree:0.36}' is recorded in the exported file, and replaced by threshold="]
    assert network_protocol(WHOLE, both, INFO, {"config": {}}, {})[0] == SINGLE_PASS
    assert network_protocol(WHOLE, model, INFO, {"config": {}}) == (SINGLE_PASS, [])


def test_windows_have_the_size_of_the_training(model):
    slide: dict[str, Any] = WHOLE | {"protocol": {"name": "slide", "crop": None, "flip": True}}
    trained = {"config": {"augment": {"name": "standard", "crop": [65, 97]}}}
    protocol, notes = network_protocol(slide, model, INFO, trained)
    assert protocol.crop == (65, 97) and protocol.flip
    assert notes == ["'protocol.crop=[65,97]', the size that the network was trained at"]
    given = WHOLE | {"protocol": {"name": "slide", "crop": [8, 9]}}
    assert network_protocol(given, model, INFO, trained)[0].crop == (8, 9)
    exported = {"config": {}}
    assert network_protocol(slide, in_python(model, "logits", crop=[33, 34]), INFO, exported)[0].crop == (33, 34)
    assert network_protocol(slide, in_python(model, "logits", crop=[33, 34], hw=[64, 96]), INFO, exported)[0].crop == (64, 96)
    for invalid in (["x", 3], 5, "ab"):
        with pytest.raises(ConfigError, match="crop=.*: expected a list of 2"):
            network_protocol(slide, in_python(model, "logits", crop=invalid), INFO, exported)
    for meta in ({"config": {}}, {"config": {"augment": {"name": "standard", "crop": None}}}):
        with pytest.raises(ConfigError, match=r"no crop of the training is known for the windows. Set .* 'protocol.crop=\[H,W\]'"):
            network_protocol(slide, model, INFO, meta)
    assert build_protocol(WHOLE) == SINGLE_PASS


@pytest.mark.parametrize("values", [{"tre": 0.3}, {"tree": 2}, [0.3], "0.3"], ids=str)
def test_invalid_thresholds_of_a_file_are_rejected(model, values):
    with pytest.raises((ConfigError, AttributeError, TypeError)):  # which ``open_exported`` explains
        in_python(model, "labels", **{"threshold": values})


@pytest.fixture(scope="module")
def bundled(model, tmp_path_factory):
    """The folder of a bundle with a threshold, and the result."""
    pytest.importorskip("onnxruntime", reason='pip install -e ".[export]"')
    pytest.importorskip("onnxscript", reason='pip install -e ".[export]"')
    folder = tmp_path_factory.mktemp("export")
    metadata = {"checkpoint_sha256": "abc", **SECTIONS}
    return folder, export_model(model, INFO, metadata, DATA, folder, threshold=THRESHOLD, bundle=True)


@pytest.mark.integration
def test_a_bundle_labels_as_predict_does(model, bundled, tmp_path):
    from PIL import Image

    folder, result = bundled
    with zipfile.ZipFile(result["bundle"]) as archive:
        archive.extractall(tmp_path / "bundle")
    assert json.loads((tmp_path / "bundle" / "card.json").read_text())["threshold"] == VALUES == result["threshold"]
    (tmp_path / "in").mkdir()
    for index in range(len(DATA)):
        Image.fromarray(DATA[index].image).save(tmp_path / "in" / f"{index}.png")
    for arguments in (["--selftest"], [str(tmp_path / "in"), "--out", str(tmp_path / "out")]):
        command = [sys.executable, "predict.py", *arguments]
        process = subprocess.run(command, cwd=tmp_path / "bundle", capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
    network = open_exported(folder / "bundle.zip")
    for name, each, protocol in (("p", model, WITH_THRESHOLD), ("x", network, WITH_THRESHOLD), ("plain", model, SINGLE_PASS)):
        predict_source(each, INFO, tmp_path / name, tmp_path / "in", protocol, overlays="none")
    for index in range(len(DATA)):
        own, predicted, exported, plain = (
            np.array(Image.open(tmp_path / place / f"{index}.png")) for place in ("out", "p/labels", "x/labels", "plain/labels")
        )
        assert (own == predicted).mean() > 0.9995 and (own == exported).all() and (own == plain).mean() < 0.99


@pytest.mark.integration
def test_another_threshold_than_that_of_the_labels_is_rejected(bundled):
    folder, _ = bundled
    for same in ({}, {"threshold": None}, {"threshold": VALUES}):
        assert load_network(WHOLE | same, ckpt=str(folder / "model.onnx"))[0].follows(WITH_THRESHOLD)  # type: ignore[union-attr]
    for other in ({"road": 0.5}, {}):
        with pytest.raises(
            ConfigError, match=r"returns only labels that follow 'threshold={road:0.34,tree:0.36}'. Omit threshold="
        ):
            load_network(WHOLE | {"threshold": other}, ckpt=str(folder / "bundle.zip"))


def test_the_parity_check_covers_the_threshold(model, tmp_path, monkeypatch):
    monkeypatch.setattr("segzoo.export.exporter._open", lambda *_: in_python(model, "labels", None, threshold=VALUES))
    monkeypatch.setattr("segzoo.export.exporter._write", lambda *_: None)
    with pytest.raises(ParityError, match="of the labels equal the network's"):  # its labels follow none
        export_model(model, INFO, {}, DATA, tmp_path, threshold=THRESHOLD)
    monkeypatch.setattr("segzoo.export.exporter._open", lambda *_: in_python(model, "labels"))
    labeled = LabeledImages(DATA, DATA)
    result = export_model(model, INFO, {}, DATA, tmp_path, labeled, THRESHOLD, precision="int8", min_agreement=1.0)
    expected = evaluate(model, DATA, INFO, protocol=WITH_THRESHOLD, device="cpu", workers=0).scores.miou
    assert result["accuracy"]["miou"] == result["accuracy"]["exported_miou"] == expected
