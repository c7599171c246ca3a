"""Exported files are evaluated, predicted and benchmarked as checkpoints are."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from predictions import predict_source
from small_exports import NoiseData, export_wrapper

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.config.build import build_data
from segzoo.config.checks.early import early_errors
from segzoo.config.from_checkpoint import dataset_config, load_checkpoint
from segzoo.config.from_export import load_network
from segzoo.evaluation.evaluator import evaluate
from segzoo.inference.exported.network import ExportedNetwork, open_exported, parse_metadata, to_input_format
from segzoo.inference.protocol import InferenceProtocol
from segzoo.layers.normalize import normalize
from segzoo.models._base import SegModel
from segzoo.registry import ConfigError
from segzoo.workflows.benchmark.runner import run_benchmark

pytestmark = pytest.mark.integration

INTERFACE = {"dataset": NoiseData.info.to_dict(), "hw": None, "precision": "fp32", "align_corners": True}


def in_python(input: Any, output: Any, hw=None) -> tuple[SegModel, ExportedNetwork]:
    """A network, and an export that runs in Python."""
    wrapper = export_wrapper(input=input, output=output)

    @torch.no_grad()
    def call(batch):
        return [each.numpy() for each in wrapper(torch.from_numpy(batch))]

    assert isinstance(wrapper.model, SegModel)
    metadata = INTERFACE | {"input": input, "output": output, "align_corners": wrapper.model.align_corners, "hw": hw}
    return wrapper.model, ExportedNetwork(call, metadata, "fp32")


@pytest.mark.usefixtures("_known_peak")
def test_an_exported_file_scores_as_its_checkpoint(exported, tmp_path):
    model, info, meta = load_checkpoint(ckpt=str(exported.run / "checkpoints" / "last"))
    file = find_exported_file(exported.folder)
    network, file_info, file_meta = load_network({}, ckpt=str(file))
    assert file_info == info and file_meta["config"] == {key: meta["config"][key] for key in ("model", "backbone", "data")}
    data = build_data(dataset_config(file_meta, None), "val")
    matrices = [evaluate(each, data, info, device="cpu", workers=0).confusion for each in (model, network)]
    assert matrices[0].sum() == matrices[1].sum() == 3 * 96 * 128
    assert (matrices[0].sum(0) > 100).sum() > 1, "one predicted class would show nothing"
    assert np.abs(matrices[0] - matrices[1]).sum() <= 2 * 0.001 * matrices[0].sum()
    image = NoiseData().image(0)
    bundle = open_exported(Path(exported.result["bundle"]))
    assert (bundle.label_images(torch.from_numpy(image[None]))[0].numpy() == model.predict(image).labels).mean() > 0.999
    row = benchmark_file(exported.result["file"])
    assert row["runtime"] == "onnxruntime" and row["ms_per_image"]["p50"] > 0 and row["agreement"] is row["gmacs"] is None


def test_metadata_keeps_the_integers_of_a_label_map():
    metadata = {"data": {"name": "folder", "label_map": {7: 0, -1: 255}, "classes": {"road": 0}}}
    assert parse_metadata(json.dumps(metadata)) == metadata


def benchmark_file(file, **changes):
    config = {"ckpt": str(file), "data": None, "runtime": {"name": "eager"}, "hw": [96, 128], "max_seconds": 0.1, "device": "auto"}
    config |= {"precision": "fp32", "batch": 2, "scope": "net+labels"} | changes
    return run_benchmark(config, num_check_images=1)


@pytest.fixture
def _known_peak(monkeypatch):
    """Replace the roofline, which takes seconds to measure."""
    monkeypatch.setattr("segzoo.workflows.benchmark.measure.roofline", lambda device, dtype: {"tflops": 0.5, "gb_per_s": 10.0})


@pytest.mark.parametrize(
    ("settings", "post"),
    [({"flip": True}, "none"), ({"scales": [1.0, 0.5]}, "none"), ({"name": "slide", "crop": [65, 65]}, "none"), ({}, "crf")],
    ids=str,
)
def test_a_protocol_that_needs_logits_is_rejected_for_labels(exported, settings, post):
    config = {"protocol": {"name": "whole"} | settings, "post": {"name": post}}
    with pytest.raises(ConfigError, match=r"needs logits, and .*model.onnx returns only labels. Use .* output=both"):
        load_network(config, ckpt=str(exported.folder))


def test_settings_that_contradict_an_exported_file_are_rejected(exported):
    with pytest.raises(ConfigError, match="confidence=max needs logits, and .* returns only labels"):
        load_network({"confidence": "max"}, ckpt=str(exported.folder))
    with pytest.raises(ConfigError, match="model.name=pspnet contradicts"):
        benchmark_file(exported.result["file"], model={"name": "pspnet"})
    with pytest.raises(ConfigError, match="precision=bf16: the exported file has fp32. Omit precision="):
        load_network({"precision": "bf16"}, ckpt=str(exported.folder))
    with pytest.raises(ConfigError, match="runs in onnxruntime") as error:
        benchmark_file(exported.result["file"], runtime={"name": "openvino"}, scope="net", device="cuda")
    with pytest.raises(
        ConfigError, match=r"(?s)init.ckpt=x: the exported file has its own weights.*num_classes=99: the exported file has \d"
    ):
        benchmark_file(exported.result["file"], init={"name": "checkpoint", "ckpt": "x"}, num_classes=99)
    assert len(error.value.errors) == 3


def test_files_of_others_are_rejected(tmp_path):
    (tmp_path / "damaged.onnx").write_bytes(b"not a network")
    with pytest.raises(ConfigError, match="damaged.onnx cannot be loaded"):
        load_network({}, ckpt=str(tmp_path / "damaged.onnx"))


def test_exported_files_are_accepted_where_they_can_be_used(tmp_path):
    (tmp_path / "model.onnx").touch()
    for path in (tmp_path, tmp_path / "model.onnx"):
        assert find_exported_file(path) == tmp_path / "model.onnx"
        assert early_errors("eval", {"ckpt": str(path)}) == []
    assert "neither a run directory nor a checkpoint directory" in str(early_errors("export", {"ckpt": str(tmp_path)}))


@pytest.mark.parametrize("input", ["uint8", "float"])
def test_logits_follow_any_protocol(input):
    model, network = in_python(input, "logits")
    protocols: list[dict[str, Any]] = [{}, {"flip": True}, {"crop": (96, 96)}]
    for protocol in protocols:
        matrices = [
            evaluate(each, NoiseData(), NoiseData.info, protocol=InferenceProtocol(**protocol), device="cpu", workers=0).confusion
            for each in (model, network)
        ]
        assert np.abs(matrices[0] - matrices[1]).sum() <= 2 * 0.001 * matrices[0].sum(), protocol


def test_labels_are_predicted_without_logits(tmp_path):
    model, network = in_python("uint8", "labels")
    from PIL import Image

    image = NoiseData().image(0)
    Image.fromarray(image).save(tmp_path / "x.png")
    predict_source(network, NoiseData.info, tmp_path / "out", tmp_path / "x.png")
    model.info = NoiseData.info
    assert (np.asarray(Image.open(tmp_path / "out" / "labels" / "x.png")) == model.predict(image).labels).mean() > 0.999


def test_sizes_that_a_file_does_not_take_are_rejected():
    images = torch.zeros(1, 50, 97, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="the image has 50x97 pixels, the exported file takes at least 64x64"):
        in_python("uint8", "labels")[1].label_images(images)
    with pytest.raises(ValueError, match="the image has 50x97 pixels, the exported file takes 65x97"):
        in_python("uint8", "labels", hw=[65, 97])[1].label_images(images)


def test_input_formats():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    assert to_input_format(pixels, "uint8").tobytes() == pixels.tobytes()
    assert to_input_format(pixels, "float").shape == (2, 3, 5, 7) and to_input_format(pixels, "float").dtype == np.float32


def test_a_damaged_file_is_rejected(exported, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(exported.folder, folder)
    unpacked = tmp_path / "unpacked"
    shutil.unpack_archive(exported.result["bundle"], unpacked)
    for file in (folder / "model.onnx", unpacked / "model.onnx"):
        load_network({}, ckpt=str(file))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 64
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"model.onnx is not the file that was exported .*Copy or export it again"):
            load_network({}, ckpt=str(file))
        load_network({}, ckpt=str(file.rename(file.with_name("other.onnx"))))  # a file on its own has no record


def test_networks_of_files_are_described_and_copied(exported, tmp_path):
    network, image = open_exported(Path(exported.result["file"])), torch.from_numpy(NoiseData().image(0)[None])
    assert not network.training and "model.onnx, " in repr(network) and "returns labels" in repr(network)
    for copied in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        assert torch.equal(copied.label_images(image), network.label_images(image))
    network.info = replace(network.info, name="renamed")
    assert copy.deepcopy(network).info == network.info
    lost = open_exported(Path(shutil.copy(exported.result["file"], tmp_path)))
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(TypeError, match="its file is gone"):
        pickle.dumps(lost)


def test_reversing_the_normalization_restores_every_byte():
    image, seen = torch.arange(256, dtype=torch.uint8).repeat(64, 1)[..., None].repeat(1, 1, 3)[None], []

    def call(batch):
        seen.append(batch)
        return [np.zeros((1, NoiseData.info.num_classes, 64, 256), np.float32)]

    network = ExportedNetwork(call, INTERFACE | {"input": "uint8", "output": "logits"}, "fp32")
    network(normalize(image, NoiseData.info, torch.device("cpu")))
    np.testing.assert_array_equal(seen[0], image.numpy())
