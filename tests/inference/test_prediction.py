"""Predictions from Python: inputs, results and their agreement with the prediction tool."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predictions import predict_source
from small_models import build, randomized

from segzoo.data.image_io import read_image
from segzoo.data.inspection.blobs import find_blobs
from segzoo.inference.outputs.result_files import write_rgb
from segzoo.inference.prediction.inputs import batches, read_input
from segzoo.inference.prediction.result import Prediction
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.threshold import with_threshold
from segzoo.pixel_format import PixelFormat
from segzoo.registry import ConfigError
from segzoo.types import DataError, DatasetInfo
from segzoo.visualization.drawing import overlay

INFO = DatasetInfo(
    "parts", ("background", "bolt", "<b>&nut</b>"), ((0, 0, 0), (200, 0, 0), (0, 0, 250)), (120.0, 110.0, 100.0), (60.0, 58.0, 57.0)
)


@pytest.fixture(scope="module")
def model():
    """A network in evaluation mode that predicts several classes."""
    torch.manual_seed(0)
    network = randomized(build("icnet", num_classes=3)).eval().to(memory_format=torch.channels_last)
    network.info = INFO
    return network


def pattern(seed, height=64, width=96):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images of two sizes: one turned by EXIF, 16-bit, gray."""
    folder = tmp_path_factory.mktemp("files")
    for number, (height, width) in enumerate([(64, 96), (72, 96), (64, 96)]):
        Image.fromarray(pattern(number, height, width)).save(folder / f"{number}.png")
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(pattern(3)).save(folder / "3.jpg", exif=turned)
    Image.fromarray(pattern(4)[..., 0].astype(np.uint16) << 8).save(folder / "4.png")
    Image.fromarray(pattern(5)[..., 1]).save(folder / "5.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    ("protocol", "threshold"),
    [
        (InferenceProtocol(), None),
        (InferenceProtocol(crop=(64, 64), window_weights="gaussian"), None),
        (InferenceProtocol(), {"bolt": 0.2}),
    ],
    ids=["whole", "slide", "threshold"],
)
def test_labels_are_those_of_the_prediction_tool(model, files, tmp_path, protocol, threshold):
    thresholded = with_threshold(protocol, INFO, threshold=threshold)
    predict_source(model, INFO, tmp_path, files[0].parent, thresholded, overlays="none")
    written = [np.array(Image.open(tmp_path / "labels" / f"{path.stem}.png")) for path in files]
    assert sum(len(np.unique(label)) > 1 for label in written) > 1, "several classes are predicted"
    single = [model.predict(path, protocol=protocol, threshold=threshold) for path in files]
    for path, prediction, label in zip(files, single, written, strict=True):
        assert (prediction.labels == label).all() and prediction.labels.dtype == np.uint8 and prediction.path == path
        assert (prediction.image == read_image(path)).all()
    together = model.predict(files, protocol=protocol, threshold=threshold)
    assert [prediction.path for prediction in together] == files
    same = [(prediction.labels == label).mean() for prediction, label in zip(together, written, strict=True)]
    assert min(same) > 0.999, "a batch may round another way where two classes are equally likely"


def test_every_kind_of_input_gives_the_same_labels(model, files):
    for path in files:
        pixels = read_image(path)
        expected = model.predict(str(path)).labels
        inputs = [
            pixels,
            pixels[:, ::-1][:, ::-1],
            torch.from_numpy(pixels),
            torch.from_numpy(pixels).permute(2, 0, 1),
            Image.open(path),
        ]
        if path.stem == "5":
            inputs.append(pixels[..., 0])
        for given in inputs:
            assert (model.predict(given).labels == expected).all()
    palette = Image.fromarray(pattern(0)).quantize(8)
    palette.info["transparency"] = 0
    assert (model.predict(palette).labels == model.predict(np.array(palette.convert("RGB"))).labels).all()
    assert palette.info["transparency"] == 0, "the image of the user is left alone"


def test_images_of_one_size_share_a_batch():
    images = [pattern(number, height) for number, height in enumerate((64, 72, 64, 64, 72, 64))]
    assert [[image.position for image in batch] for batch in batches(images, 2)] == [[0, 2], [1, 4], [3, 5]]
    assert [len(batch) for batch in batches(images, None)] == [4, 2]
    assert [len(batch) for batch in batches([np.zeros((1024, 1024, 3), np.uint8)] * 5, None)] == [4, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            np.zeros((64, 64, 3), np.float32),
            r"image is an array of float32 \(64, 64, 3\), expected \(H, W, 3\) uint8 RGB: .* 0 to 0, so convert",
        ),
        (torch.full((3, 64, 64), 0.5), r"a tensor of float32 \(3, 64, 64\).*move the channels"),
        (np.full((64, 64, 3), -2.0), "values from -2 to -2, so pass the image before its normalization"),
        (np.full((64, 64), 999, np.uint16), "convert image >> 8 to uint8"),
        (np.full((64, 64, 3), 200), "convert it to uint8"),
        (np.zeros((64, 64, 4), np.uint8), r"drop the alpha channel with image\[..., :3\]"),
        (np.zeros((3, 64, 64), np.uint8), r"image.transpose\(1, 2, 0\)"),
        (np.zeros((2, 64, 64, 3), np.uint8), r"pass list\(images\) for a batch"),
        (np.zeros((64, 64, 1), np.uint8), r"image\[..., 0\]"),
        (np.zeros((0, 64, 3), np.uint8), "it is empty"),
        (np.array([["a"]]), "not numbers"),
        (None, "image is a NoneType, expected a path, an array"),
        (Image.fromarray(np.zeros((64, 64), np.float32)), r"image: holds 32-bit samples \(mode F\)"),
        (np.zeros((20, 64, 3), np.uint8), "image: ICNet received .* at least 32 x 32"),
        ("nowhere.png", "nowhere.png: cannot be read"),
        (".", r"\. is a folder, expected an image. Pass a list of its images, such as sorted\(pathlib.Path\('.'\)"),
        ([pattern(0), None], r"images\[1\] is a NoneType"),
    ],
    ids=[f"input{number}" for number in range(17)],
)
def test_other_inputs_are_rejected_with_advice(model, wrong, message):
    with pytest.raises(ValueError, match=message):
        model.predict(wrong)


def test_wrong_settings_are_rejected(model):
    for settings, message in (
        ({"threshold": {"bolts": 0.5}}, "Did you mean 'bolt'"),
        ({"protocol": InferenceProtocol(input_hw=(64, 64), label_size="input")}, "label_size=input is for scores"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.predict(pattern(0), **settings)
    for settings, message in (
        ({"batch_size": 0}, "batch_size=0, expected 1 or more"),
        ({"batch_size": 1.5}, "batch_size=1.5, expected 1 or more"),
        ({"protocol": "slide"}, "protocol='slide', expected an InferenceProtocol"),
        ({"threshold": 0.5}, "threshold=0.5, expected class names with probabilities"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict([], **settings)
    assert model.predict([]) == []


def test_the_classes_have_to_be_those_of_the_network(model, monkeypatch):
    monkeypatch.setattr(model, "info", DatasetInfo("x", ("a", "b"), ((0, 0, 0), (1, 1, 1))))
    with pytest.raises(ConfigError, match="model.info has 2 classes and the network 3"):
        model.predict(pattern(0))


def test_results_keep_the_image_of_a_buffer_that_is_used_again(model):
    buffer = pattern(0)
    for given in (buffer, torch.from_numpy(buffer)):
        buffer[:] = pattern(0)
        prediction = model.predict(given)
        buffer[:] = pattern(1)
        assert (prediction.shown == pattern(0)).all()


def test_an_image_is_not_replaced_by_its_labels(model, files, tmp_path):
    photo = Path(shutil.copy(files[0], tmp_path))
    prediction, content = model.predict(photo), photo.read_bytes()
    with pytest.raises(ValueError, match="is the image itself, which would be lost"):
        prediction.save(photo)
    assert photo.read_bytes() == content
    with pytest.raises(ValueError, match="alpha=5, expected 0 to 1"):
        prediction.overlay(alpha=5)


@pytest.mark.parametrize("protocol", [InferenceProtocol(), InferenceProtocol(crop=(48, 48))], ids=["whole", "slide"])
def test_probabilities_belong_to_the_labels(model, protocol):
    plain, full = (model.predict([pattern(0), pattern(1)], probabilities=asked, protocol=protocol) for asked in (False, True))
    for without, prediction in zip(plain, full, strict=True):
        assert without.probabilities is None and (without.labels == prediction.labels).all()
        assert prediction.probabilities.shape == (3, 64, 96) and prediction.probabilities.dtype == np.float32
        assert np.allclose(prediction.probabilities.sum(0), 1, atol=1e-5)
        assert (prediction.probabilities.argmax(0) == prediction.labels).mean() > 0.999
    for number, prediction in enumerate(model.predict([pattern(0), pattern(1)], confidence=True, protocol=protocol)):
        assert prediction.probabilities is None and (prediction.labels == full[number].labels).all()
        np.testing.assert_array_equal(prediction.confidence, (255 * full[number].probabilities.max(0)).round())


def test_threads_predict_at_the_same_time(model):
    images = [pattern(number) for number in range(4)]
    expected, found = [model.predict(image).labels for image in images], {}

    def work(number):
        found[number] = [model.predict(image).labels for image in images[number:] + images[:number]]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, labels in found.items():
        assert all((one == other).all() for one, other in zip(labels, expected[number:] + expected[:number], strict=True))
    assert len(found) == 2


def planted():
    """A label map with a bolt and two nuts."""
    labels = np.zeros((40, 60), np.uint8)
    labels[2:12, 3:23] = 1
    labels[20:25, 30:32] = 2
    labels[30:36, 40:50] = 2
    return Prediction(np.full((40, 60, 3), 90, np.uint8), labels, INFO, Path("a") / "<one>.png")


def test_areas_and_regions():
    prediction = planted()
    assert prediction.areas["bolt"] == (200, 200 / 2400) and prediction.areas["<b>&nut</b>"].pixels == 70
    assert sum(area.share for area in prediction.areas.values()) == pytest.approx(1)
    assert [tuple(region) for region in prediction.regions] == [
        ("bolt", 1, (3, 2, 20, 10), 200),
        ("<b>&nut</b>", 2, (40, 30, 10, 6), 60),
        ("<b>&nut</b>", 2, (30, 20, 2, 5), 10),
    ]
    assert len(find_blobs(prediction.labels == 2).areas) == 2
    assert repr(prediction) == "<Prediction of <one>.png, 40 x 60 pixels: background 88.8%, bolt 8.3%, <b>&nut</b> 2.9%>"


def test_overlay_and_files(tmp_path):
    prediction = planted()
    plain = np.array(prediction.overlay(legend=False, alpha=0.3, hide=("bolt",)))
    assert (plain == overlay(prediction.image, prediction.labels, INFO.palette, [1], 0.3)).all()
    assert prediction.overlay().height > 40, "a legend"
    with Image.open(prediction.save(tmp_path / "new" / "labels.png")) as png:
        assert png.mode == "P" and (np.array(png) == prediction.labels).all()
    assert Image.open(prediction.save(tmp_path / "x.jpg", "overlay")).format == "JPEG"
    with pytest.raises(ValueError, match=r"x.jpg: expected a file ending in .png for format='labels'"):
        prediction.save(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match="format='pdf', expected one of labels, overlay, labelme, coco"):
        prediction.save(tmp_path / "x.pdf", "pdf")  # type: ignore[arg-type]


def test_a_notebook_shows_the_overlay_and_escapes_names():
    html = planted()._repr_html_()
    assert "data:image/png;base64," in html and "&lt;b&gt;&amp;nut&lt;/b&gt;" in html and "&lt;one&gt;.png" in html
    assert "<b>" not in html and "#c80000" in html and "8.33 %" in html
    assert html.index("background") < html.index("bolt") < html.index("nut&lt;"), "the largest class first"


def test_a_broken_file_in_a_list_is_named(model, tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"cut.png: "):
        model.predict([pattern(0), tmp_path / "cut.png"])


def test_pillow_images_of_other_channels_are_upright_samples(tmp_path):
    form = PixelFormat(channels=1, bits=8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pattern(0)[..., 0]).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_input(Image.open(tmp_path / "a.png"), form=form), read_input(tmp_path / "a.png", form=form))
    with pytest.raises(ValueError, match="image is a Pillow image of mode P, expected one of L, "):
        read_input(Image.fromarray(pattern(0)).quantize(8), form=form)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_images_that_no_encoder_takes_are_errors_of_their_own(tmp_path, suffix):
    path, size = tmp_path / f"a.{suffix}", {"jpg": 65_600, "png": 1_000_100}[suffix]
    with pytest.raises(DataError, match=rf"a\.{suffix}: an image of {size}x1 pixels .W x H. cannot be written as {suffix}"):
        write_rgb(path, np.zeros((1, size, 3), np.uint8))
    assert not path.exists()
