"""Label maps and overlays of large images on disk."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from image_files import noise, save
from PIL import Image
from toy_training import INFO, Toy

from segzoo.device import Precision
from segzoo.inference.large import results
from segzoo.inference.large.labels import LargeImageLabeler
from segzoo.inference.large.reader import LargeImage
from segzoo.inference.large.results import Reduced, write_large_result
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.segment import segment_image
from segzoo.layers.normalize import normalize
from segzoo.types import DataError
from segzoo.visualization.label_png import open_label_png, write_label_png

pytest.importorskip("pyvips", reason="extra large")
CPU = torch.device("cpu")
FP32, SLIDE = Precision("fp32", CPU), InferenceProtocol(crop=(64, 64))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return Toy().eval()


@pytest.fixture
def image(tmp_path):
    return save(tmp_path / "wide.tif", noise(201, 150), compression="tiff_lzw")


@pytest.mark.parametrize("count", [None, 3, 256, 300])
def test_rows_make_the_file_of_a_whole_label_map(count, tmp_path):
    palette = None if count is None else [(index % 256, index // 256, 7) for index in range(count)]
    label = np.random.default_rng(0).integers(0, min(count or 255, 300), (61, 40))
    file = io.BytesIO()
    png = open_label_png(file, label.shape, palette)
    for first in range(0, len(label), 9):
        png.write(label[first : first + 9])
    png.close()
    write_label_png(tmp_path / "whole.png", label, palette)
    got, whole = Image.open(file), Image.open(tmp_path / "whole.png")
    assert got.mode == whole.mode and got.getpalette() == whole.getpalette()
    assert (np.array(got) == label).all() and (np.array(whole) == label).all()


def test_the_files_of_one_image(model, image, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "OVERLAY_PIXELS", 4000)  # a third of the side
    drawn, path, values = [], tmp_path / "labels/wide.png", np.array([7, 8, 9], np.uint8)
    draw = lambda *arrays: drawn.append(arrays)  # noqa: E731
    areas = write_large_result(path, LargeImageLabeler(model, SLIDE, FP32), LargeImage(image, 1), INFO, values, None, draw)
    batch = torch.from_numpy(noise(201, 150))[None]
    expected = segment_image(model, normalize(batch, INFO, CPU), batch, SLIDE, FP32)[0].numpy()
    assert (np.array(Image.open(path)) == values[expected]).all() and areas.tolist() == np.bincount(expected.ravel()).tolist()
    [(pixels, labels)] = drawn
    assert (labels == expected[1::3, 1::3]).all()
    assert np.abs(pixels - noise(201, 150).reshape(67, 3, 50, 3, 3).mean((1, 3))).max() <= 0.51


def test_an_interruption_leaves_no_file(model, image, tmp_path):
    labeler = LargeImageLabeler(model, SLIDE, FP32)
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    hook = model.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_large_result(tmp_path / "out/wide.png", labeler, LargeImage(image, 1), INFO, None, INFO.palette, None)
    hook.remove()
    assert len(calls) == 5 and not list((tmp_path / "out").iterdir()) and not model._forward_hooks


def test_a_truncated_image_leaves_no_file(model, image, tmp_path):
    data = image.read_bytes()
    image.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataError, match="wide.tif: damaged or truncated"):
        opened = LargeImage(image, 1)
        write_large_result(tmp_path / "out/wide.png", LargeImageLabeler(model, SLIDE, FP32), opened, INFO, None, INFO.palette, None)
    assert not list((tmp_path / "out").rglob("*"))


def test_a_reduction_keeps_only_reduced_rows(monkeypatch):
    monkeypatch.setattr(results, "OVERLAY_PIXELS", 100)
    reduced = Reduced((400, 40))
    for _ in range(40):
        reduced.add(np.zeros((10, 40, 3), np.uint8), np.zeros((10, 40), np.uint8))
    owners = [
        part if part.base is None else part.base for part in (*reduced._images, *reduced._ids, reduced._rows, reduced._labels)
    ]
    assert sum(owner.nbytes for owner in owners) < 4 * (100 + 40 * 13)  # three bytes of colors and one of the label


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (40, 40)])
def test_reduction_of_any_shape(size, monkeypatch):
    monkeypatch.setattr(results, "OVERLAY_PIXELS", 100)
    reduced = Reduced(size)
    for first in range(0, size[0], 7):
        rows = min(7, size[0] - first)
        reduced.add(np.full((rows, size[1], 3), 9, np.uint8), np.full((rows, size[1]), 2))
    pixels, labels = reduced.result()
    assert pixels.shape[:2] == labels.shape == reduced.size and (pixels == 9).all() and (labels == 2).all()
