"""Exported networks answer as the network does, at sizes and batches that were never traced, and say what they are."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from varied_networks import vary_norms_

from segzoo.api import create_model
from segzoo.data.dataset_info import make_dataset_info
from segzoo.export.exporter import export_model
from segzoo.export.formats import ExportModel, to_onnx, to_torch_export
from segzoo.layers.norm import L2Norm
from segzoo.models._base import SegModel
from segzoo.registry import MODELS, ConfigError
from segzoo.types import ParityError, Sample
from segzoo.workflows.benchmark.workload import build_workload

onnxruntime = pytest.importorskip("onnxruntime", reason='pip install -e ".[export]"')
pytest.importorskip("onnxscript", reason='pip install -e ".[export]"')
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 58.0, 57.0)


def deployed(name="icnet", takes: Any = "uint8", gives: Any = "both"):
    torch.manual_seed(0)
    model = create_model(name, backbone={"name": "resnet50", "width": 0.125}, num_classes=5).eval()
    vary_norms_(model)
    return ExportModel(model, MEAN, STD, input=takes, output=gives).eval()


def picture(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("takes, gives", [("uint8", "both"), ("float", "labels")])
def test_onnx_runtime_gives_the_networks_labels_at_other_sizes(tmp_path, takes, gives):
    net = deployed(takes=takes, gives=gives)
    to_onnx(net, tmp_path / "net.onnx", {"classes": ["a", "b"]})
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]  # one file, nothing half-written
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["segzoo"]) == {"classes": ["a", "b"]}
    for shape in ((1, 65, 97), (3, 64, 128), (2, 119, 66)):
        image = torch.from_numpy(picture(*shape))
        image = image if takes == "uint8" else image.permute(0, 3, 1, 2).float()
        with torch.no_grad():
            wanted = net(image)
        found = session.run(None, {"image": image.numpy()})
        assert len(found) == len(wanted) and found[0].dtype == np.uint8 and found[0].shape == shape
        assert (found[0] == wanted[0].numpy()).mean() > 0.999
        if gives == "both":
            np.testing.assert_allclose(found[1], wanted[1].numpy(), rtol=1e-3, atol=1e-3 * np.abs(wanted[1].numpy()).max())


def test_pixels_of_zeros_stay_zeros_and_small_ones_keep_their_length(tmp_path):
    """The exporter drops the addition of numbers below 1e-8, and with the paper's 1e-10 the safety of the division."""
    norm = L2Norm(3).eval()
    x = torch.zeros(1, 3, 2, 2)
    x[0, :, 1] = torch.tensor([1e-5, -2e-5, 3e-6])[:, None]
    torch.onnx.export(norm, (x,), tmp_path / "norm.onnx", dynamo=True, input_names=["x"], verbose=False)
    found = onnxruntime.InferenceSession(tmp_path / "norm.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})[0]
    wanted = 10 * x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt()
    np.testing.assert_allclose(norm(x).detach().numpy(), wanted.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5)


@pytest.mark.slow
def test_a_fixed_size_is_fixed(tmp_path):
    to_onnx(deployed(gives="labels"), tmp_path / "net.onnx", {}, hw=(64, 96))
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [64, 96, 3]
    assert session.run(None, {"image": picture(2, 64, 96)})[0].shape == (2, 64, 96)
    with pytest.raises(Exception, match=r"(?i)invalid dim|expected"):
        session.run(None, {"image": picture(1, 65, 96)})


@pytest.mark.slow
def test_torch_export_gives_the_networks_labels(tmp_path):
    net = deployed(gives="labels")
    to_torch_export(net, tmp_path / "net.pt2", {"classes": ["a"]})
    facts = {"segzoo": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=facts).module()
    assert json.loads(facts["segzoo"]) == {"classes": ["a"]}
    image = torch.from_numpy(picture(1, 70, 99))
    with torch.no_grad():
        assert (program(image)[0] == net(image)[0]).float().mean() > 0.999


class Pictures:
    """Noise with some structure, of several sizes."""

    info = make_dataset_info("noise", tuple("abcde"), None, MEAN, STD)

    def scan(self):
        """Nothing to find."""

    def __len__(self):
        return 5

    def name(self, index):
        return str(index)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        return Sample(coarse, np.zeros(coarse.shape[:2], np.uint8), str(index))


SINGLE_PROCESS = """
import runpy, sys
sys.argv = ["predict.py", *{words!r}]
try:
    runpy.run_path("predict.py", run_name="__main__")
except SystemExit as end:
    code = end.code
assert not {{"torch", "segzoo", "cv2"}} & set(sys.modules), "it was to need numpy, pillow and onnxruntime alone"
sys.exit(code)
"""


def alone(folder, *words):
    return subprocess.run([sys.executable, "-c", SINGLE_PROCESS.format(words=words)], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    "words",
    [
        {"bundle": True},
        *(
            pytest.param(words, marks=pytest.mark.slow)
            for words in (
                {"output": "logits", "input": "float"},
                {"hw": (65, 97)},
                {"format": "torch_export"},
                {"format": "openvino"},
            )
        ),
    ],
    ids=str,
)
def test_delivered_files_pass_the_gate_on_sizes_never_traced(tmp_path, words):
    if words.get("format") == "openvino":
        pytest.importorskip("openvino", reason='pip install -e ".[openvino]"')
    model = deployed().model
    done = export_model(model, Pictures.info, {"model": "icnet"}, Pictures(), tmp_path, **words)
    assert len(done["parity"]) == 8 and min(row["agreement"] for row in done["parity"]) >= 0.999
    assert len({tuple(row["hw"]) for row in done["parity"]}) == (1 if "hw" in words else 6)
    assert all(row["classes"] > 1 for row in done["parity"])
    assert done["bytes"] == sum(path.stat().st_size for path in tmp_path.iterdir() if path.name != "bundle.zip")
    files = {"torch_export": ["model.pt2"], "openvino": ["model.bin", "model.xml"]}.get(words.get("format", ""), ["model.onnx"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.zip"] * bool(done["bundle"]) + files
    if done["bundle"]:
        zipfile.ZipFile(done["bundle"]).extractall(tmp_path / "unpacked")
        said = alone(tmp_path / "unpacked", "--selftest")
        assert said.returncode == 0 and "every label is the delivered one" in said.stdout, said.stderr
    assert done["norms_merged"] > 50 and any(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules())


@pytest.mark.slow
def test_a_file_that_disagrees_is_not_kept_and_shows_where(tmp_path, monkeypatch):
    real = SegModel.fuse_for_inference_

    def wrong(model):
        merged = real(model)
        torch.nn.init.normal_(model.score.weight)
        return merged

    monkeypatch.setattr(SegModel, "fuse_for_inference_", wrong)
    with pytest.raises(ParityError, match=r"only .*% of the labels are the network's, wanted 99.90%"):
        export_model(deployed().model, Pictures.info, {}, Pictures(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mismatch.png"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A delivered bundle, unpacked, with a checkpoint's worth of facts in it."""
    made, unpacked = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("unpacked")
    done = export_model(deployed().model, Pictures.info, {"checkpoint_sha256": "abc"}, Pictures(), made, bundle=True)
    with zipfile.ZipFile(done["bundle"]) as packed:
        packed.extractall(unpacked)
    return unpacked


@pytest.mark.slow
def test_a_bundle_tests_itself_and_labels_pictures_alone(bundle):
    assert sorted(path.name for path in bundle.iterdir()) == [
        "NOTES.txt",
        "card.json",
        "model.onnx",
        "predict.py",
        "test.png",
        "test_labels.png",
    ]
    said = alone(bundle, "--selftest")
    assert said.returncode == 0 and "every label is the delivered one" in said.stdout, said.stderr
    said = alone(bundle, "test.png", "--out", "found")
    assert said.returncode == 0 and "test.png: " in said.stdout, said.stderr
    from PIL import Image

    found = Image.open(bundle / "found" / "test.png")
    assert found.mode == "P" and (np.asarray(found) == np.asarray(Image.open(bundle / "test_labels.png"))).all()
    assert (bundle / "found" / "test_overlay.jpg").exists()


@pytest.mark.slow
def test_a_bundle_says_what_is_wrong(bundle, tmp_path):
    from PIL import Image

    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    Image.new("RGB", (80, 70)).save(tmp_path / "fine.png")
    head = bytearray((tmp_path / "fine.png").read_bytes())
    head[16:24] = (60_000).to_bytes(4, "big") * 2  # pillow calls that a bomb
    (tmp_path / "huge.png").write_bytes(head)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    said = alone(bundle, str(tmp_path), "--out", str(tmp_path / "out"))
    assert said.returncode == 1 and "64 or more a side" in said.stderr and "broken.jpg" in said.stderr
    assert "huge.png: DecompressionBombError" in said.stderr and (tmp_path / "out" / "fine.png").exists()
    Image.new("RGB", (80, 70)).save(tmp_path / "fine_overlay.jpg")
    said = alone(bundle, str(tmp_path / "fine.png"), str(tmp_path / "fine_overlay.jpg"), "--out", str(tmp_path))
    assert said.returncode == 1 and "would write over each other" in said.stderr
    assert "there is no such file" in alone(bundle, "nowhere.png").stderr
    kept = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(kept[:-1])
    said = alone(bundle, "--selftest")
    (bundle / "model.onnx").write_bytes(kept)
    assert said.returncode == 1 and "is not the file of card.json" in said.stderr


@pytest.mark.parametrize("words", [{"format": "torch_export"}, {"input": "float"}, {"output": "both"}], ids=str)
def test_a_bundle_of_anything_else_is_refused(tmp_path, words):
    with pytest.raises(ConfigError, match="bundle=true needs format=onnx takes=uint8 gives=labels"):
        export_model(torch.nn.Identity(), Pictures.info, {}, Pictures(), tmp_path, bundle=True, **words)


def test_a_bundle_of_more_classes_than_a_label_picture_holds_is_refused(tmp_path):
    many = make_dataset_info("many", tuple(f"c{i}" for i in range(256)), None, MEAN, STD)
    with pytest.raises(ConfigError, match="255 classes at most, this network has 256"):
        export_model(torch.nn.Identity(), many, {}, Pictures(), tmp_path, bundle=True)


TRUNKS = {"vgg16": {"name": "vgg16", "batch_norm": True}, "resnet50": {"name": "resnet50"}, "resnet101": {"name": "resnet101"}}
HALF = {"name": "resnet50", "stem": "deep", "stride_at": "1x1", "width": 0.5}
EVERY = [(model, trunk) for model in MODELS.names() for trunk in TRUNKS.values()] + [("icnet", HALF)]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "name, trunk", EVERY, ids=lambda part: part if isinstance(part, str) else "-".join(map(str, part.values()))
)
def test_every_pair_passes_the_gate(tmp_path, name, trunk, format):
    pytest.importorskip("openvino" if format == "openvino" else "onnxruntime", reason='pip install -e ".[export,openvino]"')
    chosen = build_workload({"model": {"name": name}, "backbone": trunk}, num_classes=5)
    done = export_model(chosen.model, chosen.info, {}, chosen.data, tmp_path, format=format)
    assert min(row["agreement"] for row in done["parity"]) >= 0.999
    assert sum(row["classes"] for row in done["parity"]) > len(done["parity"]), "labels of one class would agree with anything"
