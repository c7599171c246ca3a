"""Settings of a prediction are checked before torch is imported."""

from __future__ import annotations

import io
import sys

import pytest

from segzoo.config.checks import runtime
from segzoo.config.checks.early import early_errors
from segzoo.config.checks.prediction import prediction_errors, source_errors
from segzoo.config.checks.runtime import export_errors, runtime_errors, runtime_notes


def settings(**changes):
    plain = {"ckpt": "run", "runtime": {"name": "eager"}, "device": "auto", "source": ".", "out": None, "overwrite": False}
    return plain | {"only": "all", "overlays": "png", "format": "index", "polygons": "none", "fail_if": None} | changes


def test_all_contradictions_are_listed_at_once():
    changes = {"only": "new", "overlays": "video", "fail_if": {"a": "5"}, "runtime": {"name": "torch_compile", "cuda_graphs": True}}
    errors = prediction_errors(settings(**changes))
    found = [next(key for key in ("only=new", "overlays=video", "cuda_graphs", "fail_if") if key in error) for error in errors]
    assert found == ["only=new", "overlays=video", "cuda_graphs", "fail_if"]
    assert prediction_errors(settings()) == []
    assert "format=cityscapes" in prediction_errors(settings(source=0, format="cityscapes"))[0]
    assert prediction_errors(settings(source=0, overlays="video", polygons="labelme")) == []
    assert "Set format=index" in prediction_errors(settings(polygons="coco", format="color"))[0]


def test_a_source_of_text_is_checked(tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("nowhere.png\n")
    assert "none of the 1 paths exists" in source_errors(str(tmp_path / "list.txt"))[0]
    assert "matches no image" in source_errors("nowhere/*.png")[0] and source_errors("rtsp://camera/1") == source_errors(7) == []
    keyboard = io.StringIO()
    monkeypatch.setattr(keyboard, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", keyboard)
    assert "find images -name '*.png' | python tools/predict.py source=-" in source_errors("-")[0]


def test_runtimes_that_are_missing_or_faster_are_named(monkeypatch):
    installed = {"onnxruntime", "onnx", "onnxscript"}
    monkeypatch.setattr(runtime, "is_installed", lambda name: name in installed)
    (error,) = runtime_errors({"runtime": {"name": "openvino"}, "device": "cpu"})
    assert error == 'runtime=openvino needs openvino: pip install "segzoo[export,openvino]"'
    assert "predicts on the CPU" in runtime_errors({"runtime": {"name": "onnxruntime"}, "device": "cuda"})[0]
    assert runtime_errors({"runtime": {"name": "eager"}, "device": "cuda"}) == []
    assert runtime_notes(settings(), False, 1000) == ["runtime=onnxruntime is installed and usually faster on a CPU."]
    installed.add("openvino")
    assert (
        "runtime=openvino" in runtime_notes(settings(), False, None)[0]
        and "torch_compile" in runtime_notes(settings(), True, 1000)[0]
    )
    assert runtime_notes(settings(), False, 3) == runtime_notes(settings(runtime={"name": "openvino"}), False, 1000) == []


def test_packages_that_an_export_lacks_are_named(monkeypatch):
    installed = {"openvino", "onnxruntime", "onnx"}
    monkeypatch.setattr(runtime, "is_installed", lambda name: name in installed)
    (error,) = export_errors({"format": "onnx", "precision": "int8"})
    assert error == 'format=onnx needs onnxscript: pip install "segzoo[export]"' and early_errors("export", {"format": "onnx"}) == [
        error
    ]
    installed.add("onnxscript")
    assert (
        export_errors({"format": "onnx"})
        == export_errors({"format": "openvino"})
        == export_errors({"format": "torch_export"})
        == []
    )
    (error,) = export_errors({"format": "openvino", "precision": "int8"})
    assert error == 'format=openvino needs nncf: pip install "segzoo[export,openvino]"'


@pytest.mark.parametrize("total", [10, None])
def test_nothing_is_proposed_without_packages(monkeypatch, total):
    monkeypatch.setattr(runtime, "is_installed", lambda name: False)
    assert runtime_notes(settings(), False, total) == []
