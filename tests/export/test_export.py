"""Exported networks give the network's labels, at sizes and batches that were never traced, with metadata."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from small_exports import MEAN, STD, NoiseData, export_wrapper

from segzoo.data.dataset_info import make_dataset_info
from segzoo.data.datasets.parts import INFO
from segzoo.export.exporter import export_model
from segzoo.export.formats import to_onnx, to_torch_export
from segzoo.layers.norm import L2Norm
from segzoo.models._base import SegModel
from segzoo.registry import MODELS, ConfigError
from segzoo.types import ParityError
from segzoo.workflows.benchmark.workload import build_workload

onnx = pytest.importorskip("onnx", reason='pip install -e ".[export]"')
onnxruntime = pytest.importorskip("onnxruntime", reason='pip install -e ".[export]"')
pytest.importorskip("onnxscript", reason='pip install -e ".[export]"')


def random_images(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("input, output", [("uint8", "both"), ("float", "labels")])
def test_onnx_runtime_matches_the_network_at_other_sizes(tmp_path, input, output):
    net = export_wrapper(input=input, output=output)
    to_onnx(net, tmp_path / "net.onnx", {"classes": ["a", "b"]})
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]  # one file, no temporary ones
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["segzoo"]) == {"classes": ["a", "b"]}
    for shape in ((1, 65, 97), (3, 64, 128), (2, 119, 66)):
        image = torch.from_numpy(random_images(*shape))
        image = image if input == "uint8" else image.permute(0, 3, 1, 2).float()
        with torch.no_grad():
            expected = net(image)
        actual = session.run(None, {"image": image.numpy()})
        assert len(actual) == len(expected) and actual[0].dtype == np.uint8 and actual[0].shape == shape
        assert (actual[0] == expected[0].numpy()).mean() > 0.999
        if output == "both":
            np.testing.assert_allclose(actual[1], expected[1].numpy(), rtol=1e-3, atol=1e-3 * np.abs(expected[1].numpy()).max())


@pytest.mark.integration
def test_l2_norm_exports_zero_and_tiny_pixels(tmp_path):
    """The exporter drops additions of numbers below 1e-8, such as the paper's 1e-10 that guards the division."""
    norm = L2Norm(3).eval()
    x = torch.zeros(1, 3, 2, 2)
    x[0, :, 1] = torch.tensor([1e-5, -2e-5, 3e-6])[:, None]
    torch.onnx.export(norm, (x,), tmp_path / "norm.onnx", dynamo=True, input_names=["x"], verbose=False)
    actual = onnxruntime.InferenceSession(tmp_path / "norm.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})[0]
    expected = 10 * x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt()
    np.testing.assert_allclose(norm(x).detach().numpy(), expected.numpy(), rtol=1e-5)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-5)


@pytest.mark.slow
def test_a_fixed_size_is_fixed(tmp_path):
    to_onnx(export_wrapper(output="labels"), tmp_path / "net.onnx", {}, hw=(64, 96))
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [64, 96, 3]
    assert session.run(None, {"image": random_images(2, 64, 96)})[0].shape == (2, 64, 96)
    with pytest.raises(Exception, match=r"(?i)invalid dim|expected"):
        session.run(None, {"image": random_images(1, 65, 96)})


@pytest.mark.slow
def test_torch_export_matches_the_network(tmp_path):
    net = export_wrapper(output="labels")
    to_torch_export(net, tmp_path / "net.pt2", {"classes": ["a"]})
    metadata = {"segzoo": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=metadata).module()
    assert json.loads(metadata["segzoo"]) == {"classes": ["a"]}
    image = torch.from_numpy(random_images(1, 70, 99))
    with torch.no_grad():
        assert (program(image)[0] == net(image)[0]).float().mean() > 0.999


RUN_SCRIPT = """
import runpy, sys
sys.argv = ["predict.py", *{args!r}]
sys.modules |= dict.fromkeys(("torch", "segzoo", "cv2"))  # as if not installed: it must need only numpy, pillow and onnxruntime
try:
    runpy.run_path("predict.py", run_name="__main__")
except SystemExit as end:
    code = end.code
sys.exit(code)
"""


def run_bundle(folder, *args):
    return subprocess.run([sys.executable, "-c", RUN_SCRIPT.format(args=args)], cwd=folder, capture_output=True, text=True)


def stored_metadata(file):
    """Read the metadata of an exported file as its own runtime does."""
    if file.endswith(".onnx"):
        return json.loads(onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map["segzoo"])
    if file.endswith(".xml"):
        import openvino

        return json.loads(openvino.Core().read_model(file).get_rt_info("segzoo").astype(str))
    extra = {"segzoo": ""}
    torch.export.load(file, extra_files=extra)
    return json.loads(extra["segzoo"])


def check_export(result, folder, model, info):
    assert stored_metadata(result["file"])["dataset"] == json.loads(json.dumps(info.to_dict()))
    assert len(result["parity"]) == 8 and min(row["agreement"] for row in result["parity"]) >= 0.999
    assert all(row["classes"] > 1 for row in result["parity"])
    files = [path for path in folder.iterdir() if path.name.startswith("model.")]
    assert result["bytes"] == sum(path.stat().st_size for path in files)
    assert result["norms_merged"] > 50 and any(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules())
    return sorted(path.name for path in files)


@pytest.mark.integration
def test_exported_files_pass_the_parity_check_on_sizes_never_traced(exported, tmp_path):
    assert check_export(exported.result, exported.folder, exported.model, INFO) == ["model.onnx"]
    sizes = [tuple(row["hw"]) for row in exported.result["parity"]]
    assert sizes[0] == (160, 240) and len(set(sizes)) == 7, "the size of the images comes first"
    proto = onnx.load(exported.folder / "model.onnx", load_external_data=False)
    assert proto.ir_version == 9, "onnxruntime 1.17 reads no newer one"
    zipfile.ZipFile(exported.result["bundle"]).extractall(tmp_path)
    process = run_bundle(tmp_path, "--selftest")
    assert process.returncode == 0 and "all labels equal the bundled ones" in process.stdout, process.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, files",
    [
        ({"output": "logits", "input": "float"}, ["model.onnx"]),
        ({"hw": (65, 97)}, ["model.onnx"]),
        ({"format": "torch_export"}, ["model.pt2"]),
        ({"format": "openvino"}, ["model.bin", "model.xml"]),
    ],
    ids=str,
)
def test_other_formats_pass_the_parity_check(tmp_path, options, files):
    if options.get("format") == "openvino":
        pytest.importorskip("openvino", reason='pip install -e ".[openvino]"')
    model = export_wrapper().model
    result = export_model(model, NoiseData.info, {"model": "icnet"}, NoiseData(), tmp_path, **options)
    assert check_export(result, tmp_path, model, NoiseData.info) == files and result["bundle"] is None
    assert len({tuple(row["hw"]) for row in result["parity"]}) == (1 if "hw" in options else 7)


@pytest.mark.slow
def test_a_file_that_disagrees_is_deleted_and_the_mismatch_shown(tmp_path, monkeypatch):
    original = SegModel.fuse_for_inference_

    def broken(model):
        num_fused = original(model)
        torch.nn.init.normal_(model.score.weight)
        return num_fused

    monkeypatch.setattr(SegModel, "fuse_for_inference_", broken)
    with pytest.raises(ParityError, match=r"only .*% of the labels equal the network's, expected 99.90%"):
        export_model(export_wrapper().model, NoiseData.info, {}, NoiseData(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mismatch.png"]


@pytest.fixture
def bundle(exported, tmp_path):
    """An unpacked bundle."""
    with zipfile.ZipFile(exported.result["bundle"]) as archive:
        archive.extractall(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.slow
def test_a_bundle_runs_its_self_test_and_labels_images(bundle):
    assert sorted(path.name for path in bundle.iterdir()) == [
        "NOTES.txt",
        "card.json",
        "channel_decoder.py",
        "channel_files.py",
        "decoder_warnings.py",
        "drawing.py",
        "image_decoder.py",
        "model.onnx",
        "predict.cpp",
        "predict.py",
        "test.png",
        "test_labels.png",
    ]
    process = run_bundle(bundle, "--selftest")
    assert process.returncode == 0 and "all labels equal the bundled ones" in process.stdout, process.stderr
    process = run_bundle(bundle, "test.png", "--out", "predicted")
    assert process.returncode == 0 and "test.png: " in process.stdout, process.stderr
    from PIL import Image

    label_map = Image.open(bundle / "predicted" / "test.png")
    assert label_map.mode == "P" and (np.asarray(label_map) == np.asarray(Image.open(bundle / "test_labels.png"))).all()
    with Image.open(bundle / "predicted" / "test_overlay.jpg") as overlay, Image.open(bundle / "test.png") as image:
        assert overlay.width >= image.width and overlay.height > image.height, "above a legend"


@pytest.mark.slow
def test_a_bundle_explains_its_errors(bundle, tmp_path):
    from PIL import Image

    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    Image.new("RGB", (80, 70)).save(tmp_path / "fine.png")
    data = bytearray((tmp_path / "fine.png").read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")  # pillow 13 checks the header's CRC first
    (tmp_path / "huge.png").write_bytes(data)
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    process = run_bundle(bundle, str(tmp_path), "--out", str(tmp_path / "out"))
    assert process.returncode == 1 and "expected at least 64x64" in process.stderr and "broken.jpg" in process.stderr
    assert "huge.png: 60000x60000 pixels (W x H) exceed the limit of" in process.stderr and (tmp_path / "out" / "fine.png").exists()
    Image.new("RGB", (80, 70)).save(tmp_path / "fine_overlay.jpg")
    process = run_bundle(bundle, str(tmp_path / "fine.png"), str(tmp_path / "fine_overlay.jpg"), "--out", str(tmp_path))
    assert process.returncode == 1 and "would overwrite input images or each other" in process.stderr
    assert "there is no such file" in run_bundle(bundle, "nowhere.png").stderr
    original = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(original[:-1])
    process = run_bundle(bundle, "--selftest")
    (bundle / "model.onnx").write_bytes(original)
    assert process.returncode == 1 and "does not match card.json" in process.stderr


@pytest.mark.parametrize("options", [{"format": "torch_export"}, {"input": "float"}, {"output": "both"}], ids=str)
def test_a_bundle_of_anything_else_is_rejected(tmp_path, options):
    with pytest.raises(ConfigError, match="bundle=true needs format=onnx input=uint8 output=labels"):
        export_model(torch.nn.Identity(), NoiseData.info, {}, NoiseData(), tmp_path, bundle=True, **options)


def test_a_bundle_of_more_than_255_classes_is_rejected(tmp_path):
    many = make_dataset_info("many", tuple(f"c{i}" for i in range(256)), None, MEAN, STD)
    with pytest.raises(ConfigError, match="up to 255 classes in its label images; this network has 256"):
        export_model(torch.nn.Identity(), many, {}, NoiseData(), tmp_path, bundle=True)


BACKBONES = {"vgg16": {"name": "vgg16", "batch_norm": True}, "resnet50": {"name": "resnet50"}, "resnet101": {"name": "resnet101"}}
HALF = {"name": "resnet50", "stem": "deep", "stride_at": "1x1", "width": 0.5}
PAIRS = [(model, backbone) for model in MODELS.names() for backbone in BACKBONES.values()] + [("icnet", HALF)]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "name, backbone", PAIRS, ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values()))
)
def test_every_pair_passes_the_parity_check(tmp_path, name, backbone, format):
    pytest.importorskip("openvino" if format == "openvino" else "onnxruntime", reason='pip install -e ".[export,openvino]"')
    workload = build_workload({"model": {"name": name}, "backbone": backbone}, num_classes=5)
    result = export_model(workload.model, workload.info, {}, workload.images, tmp_path, format=format)
    assert min(row["agreement"] for row in result["parity"]) >= 0.999
    assert sum(row["classes"] for row in result["parity"]) > len(result["parity"]), "agreement of one class shows nothing"


def test_a_bundle_rejects_decoders_that_it_cannot_use():
    script = Path(__file__).parents[2] / "segzoo/export/bundle_predict.py"
    code = f"import PIL, PIL.Image, runpy; PIL.__version__ = '10.4.0'; runpy.run_path('{script}', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "pillow 10.4.0 is installed, and 11 or newer is needed. Run: pip install --upgrade pillow\n"
