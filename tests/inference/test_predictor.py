"""Predictions on disk: index maps, overlays, names; and the images drawn for people."""

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
    """Images in two folders with equal names, one name in two formats, and a file that is no image."""
    folder = tmp_path / "drive"
    for index, name in enumerate(("a/one.png", "b/one.png", "b/two.PNG", "b/two.bmp")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(DATA[index].image).save(folder / name)
    (folder / "b/notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    return Toy()


def run(model, out, source, **words):
    settings: dict[str, Any] = {"device": "cpu"} | words
    return predict_images(model, INFO, out, source=str(source), **settings)


def wanted(model, image):
    picture = torch.from_numpy(image)[None]
    x = normalize(picture, INFO, torch.device("cpu"))
    with eval_mode(model):
        return segment_image(model, x, picture, InferenceProtocol(), Precision("fp32", torch.device("cpu")))[0].numpy()


def test_every_picture_gets_an_index_map_and_an_overlay(model, tmp_path, drive):
    done = run(model, tmp_path / "out", drive)
    assert done["pictures"] == 4 and model.training
    names = sorted(str(path.relative_to(tmp_path / "out/labels")) for path in (tmp_path / "out/labels").rglob("*.png"))
    assert names == ["a/one.png", "b/one.png", "b/two.PNG.png", "b/two.bmp.png"]
    for index, name in enumerate(("a/one", "b/one", "b/two.PNG", "b/two.bmp")):
        with Image.open(tmp_path / f"out/labels/{name}.png") as picture:
            assert picture.mode == "P" and (picture.getpalette() or [])[:9] == [
                channel for color in INFO.palette for channel in color
            ]
            label = np.array(picture)
        assert (label == wanted(model, DATA[index].image)).all()
        shown = np.array(Image.open(tmp_path / f"out/overlays/{name}.png"))
        height, width = label.shape
        assert shown.shape[1] == width and shown.shape[0] > height
        assert (shown[:height] == overlay(DATA[index].image, label, INFO)).all()


def test_a_second_call_does_not_read_the_first_ones_output(model, drive):
    assert run(model, drive / "out", drive)["pictures"] == run(model, drive / "out", drive)["pictures"] == 4


def test_sources(drive, tmp_path):
    def names(source):
        return [name for _, name in find_images(str(source), tmp_path / "out")]

    assert names(drive / "b/one.png") == ["one"]
    assert names(drive / "*" / "one.png") == ["a/one", "b/one"]
    assert names(f"{drive}/**/*.bmp") == ["two"]
    assert names(drive / "b") == ["one", "two.PNG", "two.bmp"]
    for source, message in ((tmp_path / "nowhere", "is no file or folder"), (drive / "*.png", "matches no image")):
        with pytest.raises(ConfigError, match=message):
            names(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no image"):
        names(tmp_path / "empty")


def test_pictures_that_cannot_be_read_are_named_after_the_others_are_done(model, tmp_path, drive):
    whole = (drive / "a/one.png").read_bytes()
    (drive / "a/cut.png").write_bytes(whole[: len(whole) // 2])
    (drive / "b/empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 6 images could not be labeled \(4 are done\)") as error:
        run(model, tmp_path / "out", drive)
    assert "cut.png" in str(error.value) and "empty.png" in str(error.value) and "one.png" not in str(error.value)
    assert len(list((tmp_path / "out/labels").rglob("*.png"))) == 4 and not list((tmp_path / "out").rglob("*.tmp.*"))


def test_a_picture_the_model_refuses_is_named(tmp_path, drive):
    class Choosy(Toy):
        def forward(self, x):
            if x.shape[3] < 39:
                raise ValueError("wanted 39 pixels or more")
            return super().forward(x)

    with pytest.raises(DataError, match=r"2 of 4 .*\n.*b/two.PNG: wanted 39"):
        run(Choosy(), tmp_path / "out", drive)
    assert len(list((tmp_path / "out/labels").rglob("*.png"))) == 2


@pytest.mark.parametrize("overlays", ["jpg", "none"])
def test_overlays_are_a_choice(model, tmp_path, drive, overlays):
    run(model, tmp_path / "out", drive / "a", overlays=overlays, alpha=0.0)
    found = list((tmp_path / "out").glob("overlays/*"))
    if overlays == "none":
        assert found == []
    else:
        assert [path.name for path in found] == ["one.jpg"] and Image.open(found[0]).format == "JPEG"


def test_protocol_words_reach_the_model(model, tmp_path, drive):
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
    with Image.open(tmp_path / "y.png") as picture:
        assert picture.mode == "P" and (np.array(picture).ravel() == np.arange(256)).all()


def test_colours_and_alpha():
    label = np.array([[0, 2], [255, 1]], np.uint8)
    image = np.full((2, 2, 3), 100, np.uint8)
    assert colorize(label, INFO).tolist() == [[[70, 130, 180], [34, 139, 34]], [list(IGNORED), [128, 64, 128]]]
    mixed = overlay(image, label, INFO, 0.25)
    assert mixed[0, 0].tolist() == [round(75 + 70 / 4), round(75 + 130 / 4), round(75 + 180 / 4)]
    assert mixed[1, 0].tolist() == [100, 100, 100]  # ignored: the image itself
    assert (overlay(image, label, INFO, 0.0) == image).all()
    wide = np.array([[0, 65535]], np.uint16)
    assert colorize(wide, INFO)[0, 1].tolist() == list(IGNORED)


def drawn(monkeypatch):
    """Collects every text that is drawn."""
    texts, real = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, xy, text, *rest, **words: (texts.append(text), real(self, xy, text, *rest, **words))[1],
    )
    return texts


def test_the_legend_names_what_is_there_and_nothing_else(monkeypatch):
    texts = drawn(monkeypatch)
    label = np.array([[2, 2, 0]] * 4, np.uint8).repeat(60, 1)
    picture = with_legend(colorize(label, INFO), [label], INFO)
    assert texts == ["sky", "tree"] and (picture[:4] == colorize(label, INFO)).all()
    strip = picture[4:].reshape(-1, 3).tolist()
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


def test_a_triptych_shows_picture_truth_and_prediction(monkeypatch):
    texts = drawn(monkeypatch)
    sample = DATA[1]
    picture = comparison_panel(
        sample.image, sample.label, np.zeros_like(sample.label), INFO, "a/very/long/path/" * 9 + "name", height=96
    )
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.shape[0] > 96
    assert texts[0].startswith("…") and texts[0].endswith("name") and texts[1:3] == ["truth", "prediction"]
    third = picture.shape[1] // 3
    assert picture[60, 2 * third + 5].tolist() == list(INFO.palette[0])
