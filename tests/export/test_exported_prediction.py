"""Predictions from Python with exported files and in other runtimes."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from predictions import predict_source
from small_exports import NoiseData

import segzoo
from segzoo.inference.exported.network import ExportedNetwork
from segzoo.inference.protocol import InferenceProtocol
from segzoo.models._base import SegModel
from segzoo.registry import ConfigError

pytestmark = pytest.mark.integration

IMAGES = [NoiseData().image(index) for index in range(3)]


def test_an_exported_file_predicts_as_the_tool_does(exported, tmp_path):
    network = segzoo.load(exported.folder)
    assert isinstance(network, ExportedNetwork)
    Image.fromarray(IMAGES[0]).save(tmp_path / "x.png")
    predict_source(network, network.info, tmp_path / "out", tmp_path / "x.png", overlays="none")
    prediction = network.predict(tmp_path / "x.png")
    assert (prediction.labels == np.array(Image.open(tmp_path / "out" / "labels" / "x.png"))).all()
    assert len(prediction.regions) > 1 and repr(prediction).startswith("<Prediction of x.png, 160 x 240 pixels")
    together = segzoo.load(exported.result["bundle"]).predict([IMAGES[0], IMAGES[1], IMAGES[0]])
    assert (together[0].labels == prediction.labels).mean() > 0.999 and (together[2].labels == together[0].labels).mean() > 0.999
    asked: list[dict[str, Any]] = [
        {"probabilities": True},
        {"threshold": {"scratch": 0.3}},
        {"protocol": InferenceProtocol(flip=True)},
    ]
    for settings in asked:
        with pytest.raises(ConfigError, match="returns only labels. Export it with output=both"):
            network.predict(IMAGES[0], **settings)
    with pytest.raises(ValueError, match="image: the image has 40x96 pixels, the exported file takes at least 64x64"):
        network.predict(np.zeros((40, 96, 3), np.uint8))


def test_settings_that_a_file_or_a_runtime_lacks_are_rejected(exported):
    with pytest.raises(ConfigError) as error:
        segzoo.load(exported.folder, device="cuda", precision="bf16", runtime="openvino")
    assert [message.split(":")[0] for message in error.value.errors] == ["precision=bf16", "runtime=openvino", "device=cuda"]
    checkpoint = exported.run / "checkpoints" / "last"
    with pytest.raises(
        ConfigError, match="runtime='tensorrt' is not known, expected one of eager, torch_compile, onnxruntime, openvino"
    ):
        segzoo.load(checkpoint, runtime="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="runtime=onnxruntime predicts in fp32, got precision=fp16. For others, export a file"):
        segzoo.load(checkpoint, device="cpu", precision="fp16", runtime="onnxruntime")


@pytest.fixture
def two_threads(set_threads):
    set_threads(2)


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_checkpoint_runs_in_another_runtime(exported, runtime, two_threads, monkeypatch):
    package, streams = pytest.importorskip(runtime), []
    if runtime == "openvino":
        compile_model = package.Core.compile_model

        def compile_and_record(core, graph, device, properties):
            streams.append(properties.get("NUM_STREAMS", 1))
            return compile_model(core, graph, device, properties)

        monkeypatch.setattr(package.Core, "compile_model", compile_and_record)
    checkpoint = exported.run / "checkpoints" / "last"
    eager, network = (segzoo.load(checkpoint, device="cpu", runtime=name) for name in ("eager", runtime))
    assert isinstance(eager, SegModel) and isinstance(network, ExportedNetwork)
    assert eager.divides_cores and network.divides_cores == (runtime == "openvino")
    expected, found = eager.predict(IMAGES, probabilities=True), network.predict(IMAGES, probabilities=True)
    for one, other in zip(expected, found, strict=True):
        assert (one.labels == other.labels).mean() > 0.999 and one.probabilities is not None and other.probabilities is not None
        assert np.abs(one.probabilities - other.probabilities).max() < 1e-3
    sliding = InferenceProtocol(crop=(96, 96))
    assert (eager.predict(IMAGES[0], protocol=sliding).labels == network.predict(IMAGES[0], protocol=sliding).labels).mean() > 0.999
    results = {}

    def work(number):
        torch.set_num_threads(1)  # half of the cores for each of the two
        results[number] = [network.predict(image).labels for image in IMAGES * 2]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for labels in results.values():
        assert all((label == prediction.labels).mean() > 0.999 for label, prediction in zip(labels, found * 2, strict=True))
    assert len(results) == 2 and streams == ([1, 2] if runtime == "openvino" else [])
