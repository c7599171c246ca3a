"""Predictions of folders that have large images."""

from __future__ import annotations

import csv
import os
import signal
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from image_files import noise, save
from PIL import Image
from predictions import predict_source
from toy_training import INFO, Toy

from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol
from segzoo.registry import ConfigError
from segzoo.runs.signals import StopSignal
from segzoo.types import DataError

pytest.importorskip("pyvips", reason="extra large")
pytest.importorskip("rasterio", reason="extra large")
SLIDE = InferenceProtocol(crop=(64, 64))
SMALL = 0.005  # megapixels; the images here have 0.03
SETTINGS: dict[str, Any] = {"stream_megapixels": SMALL}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    return Toy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One image in every form, and a small one."""
    import pyvips  # type: ignore[import-not-found]

    folder, image = tmp_path_factory.mktemp("images"), noise(201, 150)
    gray16 = np.random.default_rng(1).integers(0, 65536, (201, 150), np.uint16)
    save(folder / "small.png", image[:60, :70])
    save(folder / "striped.tif", image, compression="tiff_lzw")
    save(folder / "big.tif", image, big_tiff=True)
    save(folder / "gray.tif", image[..., 0])
    save(folder / "gray16.tif", gray16)
    save(folder / "palette.tif", Image.fromarray(image).quantize(12))
    tiled = pyvips.Image.new_from_memory(image.tobytes(), 150, 201, 3, "uchar").copy(interpretation="srgb")
    tiled.tiffsave(str(folder / "tiled.tif"), tile=True, tile_width=64, tile_height=64, bigtiff=True)
    return folder


def labels(out):
    return {path.name: np.array(Image.open(path)) for path in sorted((out / "labels").iterdir())}


def test_streamed_images_get_the_labels_of_whole_ones(model, folder, tmp_path):
    whole = predict_source(model, INFO, tmp_path / "whole", folder, SLIDE)
    streamed = predict_source(model, INFO, tmp_path / "streamed", folder, SLIDE, stream_megapixels=SMALL)
    assert whole["images"] == streamed["images"] == 7 and streamed["notes"] == []
    expected, got = labels(tmp_path / "whole"), labels(tmp_path / "streamed")
    assert expected.keys() == got.keys() and all((expected[name] == got[name]).all() for name in expected)
    for name in ("overlays/big.png", "labels/small.png"):
        assert (np.array(Image.open(tmp_path / "whole" / name)) == np.array(Image.open(tmp_path / "streamed" / name))).all()
    tables = [list(csv.reader((tmp_path / out / "images.csv").open())) for out in ("whole", "streamed")]
    assert [[*row[:3], *row[5:]] for row in tables[0]] == [[*row[:3], *row[5:]] for row in tables[1]]


def test_jpeg_2000_of_any_size(model, tmp_path):
    image = noise(100, 90)
    save(tmp_path / "images/a.jp2", image, "JPEG2000", tile_size=(64, 64))
    save(tmp_path / "png/a.png", image)
    cases: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("png", "png", {}),
        ("whole", "images", {}),
        ("streamed", "images", SETTINGS),
    )
    for name, source, settings in cases:
        predict_source(model, INFO, tmp_path / name, tmp_path / source, SLIDE, overlays="none", **settings)
    expected = labels(tmp_path / "png")["a.png"]
    assert all((labels(tmp_path / name)["a.png"] == expected).all() for name in ("whole", "streamed"))


def test_tiles_are_described_and_equal_the_whole_image(model, folder, tmp_path):
    predict_source(model, INFO, tmp_path / "whole", folder / "tiled.tif")
    result = predict_source(model, INFO, tmp_path / "tiles", folder / "tiled.tif", stream_megapixels=SMALL, tile=128)
    assert result["notes"][0].startswith("Large images were labeled in tiles of 128 pixels with a margin of 32, as far as")
    assert (labels(tmp_path / "whole")["tiled.png"] != labels(tmp_path / "tiles")["tiled.png"]).mean() < 1e-4  # ties


def test_a_tile_for_small_images_is_noted(model, folder, tmp_path):
    result = predict_source(model, INFO, tmp_path / "out", folder / "small.png", tile=128)
    assert result["notes"] == ["tile=128 had no effect: no image is large."]


def test_errors_of_large_images_do_not_stop_the_others(model, folder, tmp_path):
    data = (folder / "big.tif").read_bytes()
    (tmp_path / "images").mkdir()
    (tmp_path / "images/cut.tif").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "images/good.tif").write_bytes(data)
    save(tmp_path / "images/vast.png", np.zeros((1000, 1100), np.uint8))
    with pytest.raises(DataError, match=r"2 of 3 images could not be labeled \(1 are done\)") as error:
        predict_source(model, INFO, tmp_path / "out", tmp_path / "images", SLIDE, stream_megapixels=SMALL, max_megapixels=1)
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and "cut.tif: damaged or truncated file" in lines[1] and "set max_megapixels=2" in lines[2]
    assert [path.name for path in (tmp_path / "out/labels").iterdir()] == ["good.png"]
    with pytest.raises(DataError, match="exceed the limit of 1 megapixels"):  # also of images that would not be streamed
        predict_source(model, INFO, tmp_path / "out2", tmp_path / "images/vast.png", max_megapixels=1)


def test_results_of_the_whole_label_map_are_rejected(model, folder, tmp_path):
    source, settings = folder / "tiled.tif", SETTINGS
    rejections: tuple[dict[str, Any], ...] = ({"confidence": "max"}, {"polygons": "coco"}, {"format": "color"})
    for rejected in rejections:
        [(key, value)] = rejected.items()
        with pytest.raises(DataError, match=f"tiled.tif: {key}={value} needs the whole image.*raise stream_megapixels"):
            predict_source(model, INFO, tmp_path / key, source, SLIDE, **settings, **rejected)
    with pytest.raises(DataError, match="a fail_if in px needs the whole image"):
        predict_source(model, INFO, tmp_path / "px", source, SLIDE, fail_if={"road": "5px"}, **settings)
    assert predict_source(model, INFO, tmp_path / "share", source, SLIDE, fail_if={"road": "1%"}, **settings)["failed"] == 1
    with pytest.raises(DataError, match="protocol.pad_multiple needs the whole image"):
        predict_source(model, INFO, tmp_path / "pad", source, InferenceProtocol(pad_multiple=8), **settings)


def test_a_stopped_image_is_labeled_again(model, folder, tmp_path, monkeypatch):
    handled, on_signal, calls = threading.Event(), StopSignal._on_signal, []

    def note_signal(self, *arguments):
        on_signal(self, *arguments)
        handled.set()

    class Stopping(Toy):
        def forward(self, x):
            calls.append(1)
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGINT)
                assert handled.wait(60)
            return super().forward(x)

    monkeypatch.setattr(StopSignal, "_on_signal", note_signal)
    stopping, out, settings = Stopping(), tmp_path / "out", SETTINGS
    stopping.load_state_dict(model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        predict_source(stopping, INFO, out, folder / "tiled.tif", SLIDE, **settings)
    assert len(calls) == 5 and not list((out / "labels").iterdir()) and not (out / "overlays").exists()
    assert predict_source(stopping, INFO, out, folder / "tiled.tif", SLIDE, True, **settings)["images"] == 1
    predict_source(model, INFO, tmp_path / "whole", folder / "tiled.tif", SLIDE)
    assert (labels(out)["tiled.png"] == labels(tmp_path / "whole")["tiled.png"]).all()


def test_small_images_need_no_package(model, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvips", None)
    assert predict_source(model, INFO, tmp_path / "out", folder / "small.png", SINGLE_PASS)["images"] == 1
    with pytest.raises((DataError, ConfigError), match=r'tiled.tif: .*need pyvips: pip install "segzoo\[large\]"'):
        predict_source(model, INFO, tmp_path / "out2", folder / "tiled.tif", SINGLE_PASS, stream_megapixels=SMALL)
