"""Predictions on disk (label maps, overlays, file names) and visualizations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from toy_training import INFO, Toy, ToyData

from segzoo.inference.image_source import find_images
from segzoo.inference.predictor import predict_images, write_labels
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.segment import Precision, segment_image
from segzoo.layers.modes import eval_mode
from segzoo.layers.normalize import normalize
from segzoo.registry import ConfigError
from segzoo.types import DataError, DatasetInfo
from segzoo.visualization import IGNORED, colorize, comparison_panel, legend, overlay, with_legend

DATA = ToyData(4, vary=True)


@pytest.fixture
def drive(tmp_path):
    """Images of the same name in two folders, one name in two formats, and a file that is not an image."""
    folder = tmp_path / "drive"
    for index, name in enumerate(("a/one.png", "b/one.png", "b/two.PNG", "b/two.bmp")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(DATA[index].image).save(folder / name)
    (folder / "b/notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    return Toy()


def run(model, out, source, **options):
    settings: dict[str, Any] = {"device": "cpu"} | options
    return predict_images(model, INFO, out, source=str(source), **settings)


def expected_label(model, image):
    batch = torch.from_numpy(image)[None]
    x = normalize(batch, INFO, torch.device("cpu"))
    with eval_mode(model):
        return segment_image(model, x, batch, InferenceProtocol(), Precision("fp32", torch.device("cpu")))[0].numpy()


def test_every_image_gets_a_label_map_and_an_overlay(model, tmp_path, drive):
    done = run(model, tmp_path / "out", drive)
    assert done["images"] == 4 and model.training
    names = sorted(str(path.relative_to(tmp_path / "out/labels")) for path in (tmp_path / "out/labels").rglob("*.png"))
    assert names == ["a/one.png", "b/one.png", "b/two.PNG.png", "b/two.bmp.png"]
    for index, name in enumerate(("a/one", "b/one", "b/two.PNG", "b/two.bmp")):
        with Image.open(tmp_path / f"out/labels/{name}.png") as png:
            assert png.mode == "P" and (png.getpalette() or [])[:9] == [channel for color in INFO.palette for channel in color]
            label = np.array(png)
        assert (label == expected_label(model, DATA[index].image)).all()
        blended = np.array(Image.open(tmp_path / f"out/overlays/{name}.png"))
        height, width = label.shape
        assert blended.shape[1] == width and blended.shape[0] > height
        assert (blended[:height] == overlay(DATA[index].image, label, INFO)).all()


def test_a_second_run_skips_the_output_of_the_first(model, drive):
    assert run(model, drive / "out", drive)["images"] == run(model, drive / "out", drive)["images"] == 4


def test_a_resumed_prediction_labels_only_what_is_missing(model, tmp_path, drive):
    out = tmp_path / "out"
    run(model, out, drive)
    whole = {path: path.read_bytes() for path in out.rglob("*.png")}
    (out / "labels/a/one.png").unlink()
    (out / "overlays/b/one.png").unlink()
    (out / "labels/b/two.bmp.png").write_bytes(b"")  # cut off by a power failure
    kept = out / "labels/b/two.PNG.png"
    kept.write_bytes(b"kept")
    done = predict_images(model, INFO, out, None, True, source=str(drive), device="cpu")
    assert (done["images"], done["done_before"]) == (4, 1) and kept.read_bytes() == b"kept"
    kept.write_bytes(whole[kept])
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == whole


def test_sources(drive, tmp_path):
    def names(source):
        return [name for _, name in find_images(str(source), tmp_path / "out").images]

    assert names(drive / "b/one.png") == ["one"]
    assert names(drive / "*" / "one.png") == ["a/one", "b/one"]
    assert names(f"{drive}/**/*.bmp") == ["two"]
    assert names(drive / "b") == ["one", "two.PNG", "two.bmp"]
    for source, message in ((tmp_path / "nowhere", "is not a file or folder"), (drive / "*.png", "matches no image")):
        with pytest.raises(ConfigError, match=message):
            names(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="contains no image"):
        names(tmp_path / "empty")


def test_unreadable_images_are_listed_after_the_others_are_done(model, tmp_path, drive):
    data = (drive / "a/one.png").read_bytes()
    (drive / "a/cut.png").write_bytes(data[: len(data) // 2])
    (drive / "b/empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 6 images could not be labeled \(4 are done\)") as error:
        run(model, tmp_path / "out", drive)
    assert "cut.png" in str(error.value) and "empty.png" in str(error.value) and "one.png" not in str(error.value)
    assert len(list((tmp_path / "out/labels").rglob("*.png"))) == 4 and not list((tmp_path / "out").rglob("*.tmp.*"))


def test_an_image_the_model_rejects_is_named(tmp_path, drive):
    class MinimumWidth(Toy):
        def forward(self, x):
            if x.shape[3] < 39:
                raise ValueError("expected 39 pixels or more")
            return super().forward(x)

    with pytest.raises(DataError, match=r"2 of 4 .*\n.*b/two.PNG: expected 39"):
        run(MinimumWidth(), tmp_path / "out", drive)
    assert len(list((tmp_path / "out/labels").rglob("*.png"))) == 2


@pytest.mark.parametrize("overlays", ["jpg", "none"])
def test_overlay_format_is_configurable(model, tmp_path, drive, overlays):
    run(model, tmp_path / "out", drive / "a", overlays=overlays, alpha=0.0)
    files = list((tmp_path / "out").glob("overlays/*"))
    if overlays == "none":
        assert files == []
    else:
        assert [path.name for path in files] == ["one.jpg"] and Image.open(files[0]).format == "JPEG"


def test_protocol_settings_reach_the_model(model, tmp_path, drive):
    run(model, tmp_path / "one", drive / "a", overlays="none")
    run(model, tmp_path / "two", drive / "a", overlays="none", scales=[0.5], mode="slide", crop=[8, 8])
    one, two = (np.array(Image.open(tmp_path / name / "labels/one.png")) for name in ("one", "two"))
    assert one.shape == two.shape and (one != two).any()


def test_more_than_256_classes_become_16_bit(tmp_path):
    info = DatasetInfo("many", tuple(map(str, range(400))), ((9, 9, 9),) * 400)
    label = np.arange(400, dtype=np.int32).reshape(20, 20)
    write_labels(tmp_path / "x.png", label, info)
    assert (np.array(Image.open(tmp_path / "x.png")) == label).all()
    full = DatasetInfo("full", tuple(map(str, range(256))), tuple((k, 0, 0) for k in range(256)), ignore=65535)
    write_labels(tmp_path / "y.png", np.arange(256, dtype=np.int32).reshape(16, 16), full)
    with Image.open(tmp_path / "y.png") as png:
        assert png.mode == "P" and (np.array(png).ravel() == np.arange(256)).all()


def test_colors_and_alpha():
    label = np.array([[0, 2], [255, 1]], np.uint8)
    image = np.full((2, 2, 3), 100, np.uint8)
    assert colorize(label, INFO).tolist() == [[[70, 130, 180], [34, 139, 34]], [list(IGNORED), [128, 64, 128]]]
    mixed = overlay(image, label, INFO, 0.25)
    assert mixed[0, 0].tolist() == [round(75 + 70 / 4), round(75 + 130 / 4), round(75 + 180 / 4)]
    assert mixed[1, 0].tolist() == [100, 100, 100]  # ignored: the image itself
    assert (overlay(image, label, INFO, 0.0) == image).all()
    wide = np.array([[0, 65535]], np.uint16)
    assert colorize(wide, INFO)[0, 1].tolist() == list(IGNORED)


def record_text(monkeypatch):
    """Record every text drawn with Pillow."""
    texts, real = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, xy, text, *rest, **options: (texts.append(text), real(self, xy, text, *rest, **options))[1],
    )
    return texts


def test_the_legend_lists_exactly_the_classes_present(monkeypatch):
    texts = record_text(monkeypatch)
    label = np.array([[2, 2, 0]] * 4, np.uint8).repeat(60, 1)
    image = with_legend(colorize(label, INFO), [label], INFO)
    assert texts == ["sky", "tree"] and (image[:4] == colorize(label, INFO)).all()
    strip = image[4:].reshape(-1, 3).tolist()
    assert list(INFO.palette[0]) in strip and list(INFO.palette[2]) in strip and list(INFO.palette[1]) not in strip
    texts.clear()
    with_legend(colorize(label, INFO), [label, np.array([[255, 1]])], INFO)
    assert texts == ["sky", "road", "tree", "ignored"]


@pytest.mark.parametrize("width", [40, 150, 400, 2000])
def test_a_legend_wraps_and_keeps_its_width(width):
    entries = [(f"a class of many words {k}", (k, k, k)) for k in range(12)]
    strip = legend(entries, width, 14)
    assert strip.shape[1] == width and strip.dtype == np.uint8
    assert legend(entries[:1], width, 14).shape[0] <= strip.shape[0] <= 12 * 25


def test_a_comparison_panel_shows_image_label_and_prediction(monkeypatch):
    texts = record_text(monkeypatch)
    sample = DATA[1]
    panel = comparison_panel(
        sample.image, sample.label, np.zeros_like(sample.label), INFO, "a/very/long/path/" * 9 + "name", height=96
    )
    assert panel.dtype == np.uint8 and panel.shape[2] == 3 and panel.shape[0] > 96
    assert texts[0].startswith("…") and texts[0].endswith("name") and texts[1:3] == ["ground truth", "prediction"]
    third = panel.shape[1] // 3
    assert panel[60, 2 * third + 5].tolist() == list(INFO.palette[0])
