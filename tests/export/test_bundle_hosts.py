"""Bundles in programs without segzoo: from card.json alone, and in C++."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import segzoo.export
from segzoo.data.datasets.parts import INFO
from segzoo.export.card import describe_interface

EXAMPLE = Path(segzoo.export.__file__).with_name("bundle_predict.cpp")


@pytest.fixture
def bundle(exported, tmp_path):
    """An unpacked bundle."""
    with zipfile.ZipFile(exported.result["bundle"]) as archive:
        archive.extractall(tmp_path / "bundle")
    return tmp_path / "bundle"


def noise(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(height).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])


@pytest.mark.slow
def test_the_card_alone_is_enough_to_run_the_file(bundle, exported):
    """Each entry of the card is used or compared with the file."""
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    card = json.loads((bundle / "card.json").read_text())
    content, face = (bundle / "model.onnx").read_bytes(), card["interface"]
    assert hashlib.sha256(content).hexdigest() == card["model_sha256"]
    proto = onnx.load_model_from_string(content)
    assert face["format"]["ir_version"] == proto.ir_version == 9 and "1.17" in face["format"]["onnxruntime"]
    assert face["format"]["opset"] == {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    source, target = session.get_inputs()[0], session.get_outputs()[0]
    assert [f"tensor({face[key]['dtype']})" for key in ("input", "output")] == [source.type, target.type]
    assert [len(face[key]["layout"]) for key in ("input", "output")] == [len(source.shape), len(target.shape)]
    assert face["input"]["shape"][3] == 3 and all(isinstance(size, str) for size in face["input"]["shape"][:3])
    assert (face["input"]["layout"], face["input"]["channels"], face["output"]["layout"]) == ("NHWC", "RGB", "NHW")
    least, step = face["input"]["size"]["min_side"], face["input"]["size"]["multiple_of"]
    for height, width in ((least, least), (least + step, least + 7 * step), (131, 97)):
        image = noise(height, width)
        batch = image[None].astype(face["input"]["dtype"])
        labels = session.run([face["output"]["name"]], {face["input"]["name"]: batch})[0]
        assert labels.shape == (1, height, width) and labels.dtype == face["output"]["dtype"]
        assert labels.max() < len(card["classes"]) == len(card["palette"]) == face["labels"]["count"]
        mean, std = np.array(card["mean"], np.float32), np.array(card["std"], np.float32)
        assert (labels[0] == labels_of(exported.model, (image - mean) / std)).mean() > 0.999, "mean and std are in the graph"
        swapped = session.run(None, {face["input"]["name"]: batch[..., ::-1].copy()})[0]
        assert (swapped != labels).any(), "the order of the channels matters"
    assert card["precision"] == "fp32" and card["threshold"] is None and str(card["ignore"]) in face["labels"]["ignore"]
    assert card["background"] == INFO.background and card["hw"] is None


def test_the_card_of_a_network_of_one_size_states_it(tmp_path):
    onnx = pytest.importorskip("onnx")
    make, bytes_ = onnx.helper.make_tensor_value_info, onnx.TensorProto.UINT8
    values = [make("image", bytes_, ["batch", 96, 128, 3])], [make("labels", bytes_, ["batch", 96, 128])]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "network", *values)), tmp_path / "model.onnx")
    face = describe_interface(tmp_path / "model.onnx", INFO, (96, 128))
    assert face["input"]["size"] == {"height": 96, "width": 128} and face["input"]["shape"] == ["batch", 96, 128, 3]
    assert face["output"]["shape"] == ["batch", 96, 128] and face["output"]["dtype"] == "uint8"


def labels_of(model, normalized: np.ndarray) -> np.ndarray:
    import torch

    from segzoo.layers.upsample_argmax import upsample_argmax

    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(normalized).permute(2, 0, 1)[None]).main
    return upsample_argmax(logits, torch.Size(normalized.shape[:2]), bool(model.align_corners))[0].numpy()


def find_onnxruntime(folder: Path) -> Path | None:
    """The folder with ``include`` and ``lib`` of ONNX Runtime.

    ``ONNXRUNTIME_INCLUDE`` names a folder with the headers. The library is that of the Python package.
    """
    include, package = os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"), importlib.util.find_spec("onnxruntime")
    if package is None or not package.origin or not (Path(include) / "onnxruntime_c_api.h").is_file():
        return None
    libraries = sorted((Path(package.origin).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        return None
    (folder / "lib").mkdir(parents=True)
    (folder / "include").symlink_to(include)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # the package has only the full version
        (folder / "lib" / name).symlink_to(libraries[-1])
    return folder


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_example_in_c_plus_plus_labels_like_the_bundle(bundle, tmp_path):
    from PIL import Image

    root = find_onnxruntime(tmp_path / "ort")
    if root is None:
        pytest.skip("needs onnxruntime_c_api.h: set ONNXRUNTIME_INCLUDE to the folder include of an ONNX Runtime release")
    assert (bundle / "predict.cpp").read_bytes() == EXAMPLE.read_bytes()
    build = next(line for line in EXAMPLE.read_text().splitlines() if "g++" in line).removeprefix("//")
    options = {"cwd": bundle, "capture_output": True, "text": True}
    compiled = subprocess.run(
        ["bash", "-c", build.replace("g++", "g++ -Wall -Wextra -Werror")], env=os.environ | {"ORT": str(root)}, **options
    )
    assert compiled.returncode == 0, compiled.stderr
    for number, size in enumerate(((64, 64), (101, 83), (160, 224))):
        Image.fromarray(noise(*size)).save(bundle / f"{number}.ppm")
        process = subprocess.run(["./predict", "model.onnx", f"{number}.ppm", f"{number}.pgm"], **options)
        assert process.returncode == 0, process.stderr
    predicted = subprocess.run([sys.executable, "predict.py", *(f"{number}.ppm" for number in range(3))], **options)
    assert predicted.returncode == 0, predicted.stderr
    for number in range(3):
        labels = np.asarray(Image.open(bundle / f"{number}.pgm"))
        assert (labels == np.asarray(Image.open(bundle / f"labels/{number}.png"))).all() and labels.max() > 0
    Image.fromarray(noise(20, 80)).save(bundle / "small.ppm")
    (bundle / "text.ppm").write_text("P3\n1 1\n255\n0 0 0\n")
    (bundle / "cut.ppm").write_bytes(b"P6\n# a comment\n70 80\n255\n123")
    for words, message in (
        (["model.onnx", "small.ppm", "a.pgm"], "the image has 20x80 pixels, expected at least 64x64"),
        (["model.onnx", "text.ppm", "a.pgm"], "text.ppm is no binary PPM"),
        (["model.onnx", "cut.ppm", "a.pgm"], "cut.ppm ends before its last pixel"),
        (["model.onnx", "nowhere.ppm", "a.pgm"], "nowhere.ppm cannot be opened"),
        (["nowhere.onnx", "0.ppm", "a.pgm"], "nowhere.onnx"),
        (["model.onnx", "0.ppm", "no/folder.pgm"], "cannot be written"),
        ([], "usage: ./predict model.onnx image.ppm labels.pgm"),
    ):
        process = subprocess.run(["./predict", *words], **options)
        assert process.returncode == 1 and message in process.stderr, process.stderr


def test_the_example_is_short_and_states_how_to_build_it():
    lines = EXAMPLE.read_text().splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 132 and any("g++" in line for line in lines[:6])
