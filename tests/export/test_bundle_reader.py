"""The bundle's predict.py reads and rejects images as segzoo does."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from image_files import encode, noise, raw_png, save
from onnx_files import write_onnx
from PIL import Image
from torch import nn

import segzoo.channel_decoder
import segzoo.channel_files
import segzoo.export.bundle
import segzoo.image_decoder
from segzoo.data.channels.reading import read_pixels
from segzoo.data.dataset_info import make_dataset_info
from segzoo.data.image_io import read_image
from segzoo.export.bundle import MODULES, standalone, write_bundle
from segzoo.export.bundle_check import example_images, stored_channels
from segzoo.pixel_format import PixelFormat
from segzoo.types import DataError, ParityError

pytest.importorskip("onnxruntime", reason='pip install -e ".[export]"')
INFO = make_dataset_info("noise", ("a", "b"), None, (120.0, 110.0, 100.0), (60.0, 58.0, 57.0))


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    """The module predict.py of an unpacked bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    shutil.copy(Path(segzoo.export.bundle.__file__).with_name("bundle_predict.py"), folder / "predict.py")
    for name, module in MODULES.items():
        (folder / f"{name}.py").write_text(standalone(Path(str(module.__file__))))
    sys.path.insert(0, str(folder))
    yield importlib.import_module("predict")
    sys.path.remove(str(folder))
    for name in ("predict", *MODULES):
        del sys.modules[name]


def special_images() -> dict[str, bytes]:
    """Images of unusual samples, some of which no reader accepts."""
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    float64 = encode(gray.astype(np.float32), "TIFF").replace(
        b"\x02\x01\x03\x00\x01\x00\x00\x00\x20", b"\x02\x01\x03\x00\x01\x00\x00\x00\x40"
    )
    return {
        "12_in_16.png": encode(gray.astype(np.uint16) * 64, "PNG"),
        "16_bits.pgm": b"P5 2 1 65535\n\x12\x34\xff\xff",
        "rgb16.png": cv2.imencode(".png", noise().astype(np.uint16) * 257)[1].tobytes(),
        "rgb16.tif": cv2.imencode(".tif", noise().astype(np.uint16) * 257)[1].tobytes(),
        "2_bits.png": raw_png(4, 1, 2, 0, [b"\x1b"]),
        "4_bits.png": raw_png(4, 1, 4, 0, [b"\x0f\x5a"]),
        "cmyk.tif": encode(Image.fromarray(noise()).convert("CMYK"), "TIFF"),
        "float32.tif": encode(gray.astype(np.float32), "TIFF"),
        "float64.tif": float64,
        "int32.tif": encode(gray.astype(np.int32), "TIFF"),
        "ycbcr.tif": encode(Image.fromarray(noise()).convert("YCbCr"), "TIFF"),
        "cut.jpg": encode(noise(100, 100), "JPEG")[:5000],
        "cut.png": encode(noise(100, 100), "PNG")[:5000],
        "animation.gif": encode(gray, "GIF"),
        "empty.png": b"",
    }


UNREADABLE = {"float32.tif", "float64.tif", "int32.tif", "cut.jpg", "cut.png", "animation.gif", "empty.png"}


@pytest.mark.parametrize("name", [*example_images(), *special_images()])
def test_the_bundle_and_segzoo_read_the_same_pixels(predict, tmp_path, name):
    path = tmp_path / name
    path.write_bytes((example_images() | special_images())[name])
    if name in UNREADABLE:
        with pytest.raises(DataError) as error:
            read_image(path)
        with pytest.raises(predict.decode_channels.__globals__["ImageError"]) as bundle_error:
            predict.read_image(path)
        assert str(error.value) == f"{path}: {bundle_error.value}"
    else:
        np.testing.assert_array_equal(read_image(path), predict.read_image(path))


def test_the_pixel_limit_is_an_option(predict, tmp_path, monkeypatch, capsys):
    class Unused:
        info = {"classes": ["a"], "palette": [[0, 0, 0]], "background": None, "channels": 3, "bits": 8}

        def __init__(self, threads):
            pass

        def predict(self, image):
            return np.zeros(image.shape[:2], np.uint8)

    path = save(tmp_path / "wide.png", noise(100, 110))
    monkeypatch.setattr(predict, "Network", Unused)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's limit, which does not count
    for limit, code in (("0.01", 1), ("0.02", 0)):
        monkeypatch.setattr(sys, "argv", ["predict.py", str(path), "--out", str(tmp_path / "out"), "--max-megapixels", limit])
        assert predict.main() == code
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden.png").write_text("")
    monkeypatch.setattr(sys, "argv", ["predict.py", str(tmp_path), "--out", str(tmp_path / "out")])
    assert predict.main() == 0
    printed, errors = capsys.readouterr()
    first, *_, last = [line for line in printed.splitlines() if "label map" in line]
    assert first == f"0 label maps with overlays in {tmp_path / 'out'}; 1 image failed"
    assert last == f"1 label map with overlays in {tmp_path / 'out'}; 2 files without the suffix of an image left out"
    assert (
        "wide.png: 110x100 pixels (W x H) exceed the limit of 0.01 megapixels. Cut it into tiles. Or set --max-megapixels."
        in errors
    )


def test_16_bit_and_special_values(predict, tmp_path):
    for name, expected in {
        "16_bits.pgm": [0x12, 0xFF],
        "2_bits.png": [0, 85, 170, 255],
        "4_bits.png": [0, 255, 85, 170],
    }.items():
        (tmp_path / name).write_bytes(special_images()[name])
        assert predict.read_image(tmp_path / name)[0].tolist() == [[value] * 3 for value in expected]
    (tmp_path / "rgb16.tif").write_bytes(special_images()["rgb16.tif"])
    assert np.array_equal(predict.read_image(tmp_path / "rgb16.tif"), noise()[..., ::-1])  # OpenCV wrote BGR


def test_alpha_does_not_change_colors_in_any_format(predict, tmp_path):
    rgba = np.dstack([noise(), np.full((24, 31), 60, np.uint8)])
    for suffix in ("png", "tif"):
        path = save(tmp_path / f"a.{suffix}", rgba)
        np.testing.assert_array_equal(predict.read_image(path), noise())
        np.testing.assert_array_equal(read_image(path), noise())


def raw_tiff(width: int, height: int, bits: list[int], data: bytes) -> bytes:
    """An uncompressed TIFF, gray or RGB with extra samples."""
    extra = len(bits) - 3
    tags = {256: [width], 257: [height], 258: bits, 259: [1], 262: [2 if extra >= 0 else 1], 273: [0], 277: [len(bits)], 278: [height], 279: [len(data)]}  # fmt: skip
    tags |= {338: [0] * extra} if extra > 0 else {}
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273] = [start + 2 * len(bits)]
    directory = len(tags).to_bytes(2, "little")
    for tag, values in tags.items():
        inline = start if tag == 258 and len(bits) > 2 else values[0]  # the samples' bits are stored behind the directory
        directory += tag.to_bytes(2, "little") + (4 if tag == 279 else 3).to_bytes(2, "little")
        directory += len(values).to_bytes(4, "little") + inline.to_bytes(4, "little")
    return b"II*\0\x08\0\0\0" + directory + bytes(4) + b"".join(n.to_bytes(2, "little") for n in bits) + data


def test_five_bands_are_read_as_their_first_three(predict, tmp_path):
    path = tmp_path / "five.tif"
    path.write_bytes(raw_tiff(31, 24, [8] * 5, np.dstack([noise(), noise()[..., :2]]).tobytes()))
    np.testing.assert_array_equal(predict.read_image(path), noise())
    np.testing.assert_array_equal(read_image(path), noise())


def test_samples_of_12_bits_are_scaled(tmp_path):
    (tmp_path / "a.tif").write_bytes(raw_tiff(2, 1, [12], b"\x80\x0f\xff"))  # 0x800 and 0xfff
    assert read_image(tmp_path / "a.tif")[0].tolist() == [[0x80] * 3, [0xFF] * 3]


def write(folder: Path) -> Path:
    model = write_onnx(folder / "model.onnx", nn.Conv2d(3, 2, 1), labels=1)  # any: the images are only read
    return write_bundle(model, INFO, {}, None, noise(), np.zeros((24, 31)))


@pytest.mark.integration
def test_an_export_proves_that_its_bundle_reads_alike(tmp_path, monkeypatch):
    bundle = write(tmp_path)
    assert {"predict.py", "image_decoder.py"} <= set(zipfile.ZipFile(bundle).namelist())
    for old, new, different in (
        ("(bits - 8)", "0", "16_bits.png"),
        ("if orientation >= 5:", "if orientation == 99:", "turned.jpg"),
    ):
        text = Path(segzoo.image_decoder.__file__).read_text()
        assert old in text
        changed = tmp_path / "changed.py"
        changed.write_text(text.replace(old, new))
        monkeypatch.setitem(MODULES, "image_decoder", SimpleNamespace(__file__=changed))
        with pytest.raises(ParityError, match=different):
            write(tmp_path)
        assert not bundle.exists()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (special_images()["float64.tif"], "is a TIFF of 1 x 64-bit floats per pixel.*Convert it"),
        (b"II*\0\x08\0\0\0", "is a damaged TIFF"),
        (special_images()["animation.gif"], "is a GIF. Save its frames as PNG"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "is a video .MP4.*ffmpeg"),
        (b"\0\0\0\x20ftypheic\0\0\2\0", "is an HEIC.*Convert it"),
        (b"RIFF\1\2\3\4AVI LIST", "is a video .AVI.*ffmpeg"),
        (b"one.png\ntwo.png\n", "is text, not an image"),
        (b"\x93NUMPY\1\0v\0", "is a NumPy array.*Save it as PNG"),
        (b"%PDF-1.7", "is a PDF"),
    ],
)
def test_other_files_are_named_with_what_to_do(tmp_path, data, expected):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.png: {expected}") as error:
        read_image(tmp_path / "a.png")
    assert "Restore" not in str(error.value)


def test_hidden_files_are_left_out(predict, tmp_path):
    for name in ("a.jpg", "._a.jpg", ".hidden.png", "b.pgm", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in predict.find_images([str(tmp_path)])] == ["a.jpg", "b.pgm"]


def test_a_network_that_cannot_be_loaded_names_the_versions(predict, tmp_path):
    import hashlib

    (tmp_path / "model.onnx").write_bytes(b"a later format")
    digest = hashlib.sha256(b"a later format").hexdigest()
    (tmp_path / "card.json").write_text(json.dumps({"model_sha256": digest, "hw": None}))
    installed = sys.modules["onnxruntime"].__version__
    with pytest.raises(SystemExit, match=f"needs onnxruntime 1.17 or newer and cannot be loaded by the installed {installed}"):
        predict.Network(tmp_path)


@pytest.mark.parametrize("pixels", [(1, 16), (4, 8), (4, 16), (5, 16), (1, 8), (3, 16)])
def test_other_channels_and_16_bits_are_read_alike(predict, tmp_path, pixels):
    for name, data in stored_channels(PixelFormat(*pixels)).items():
        (tmp_path / name).write_bytes(data)
        own = read_pixels([tmp_path / name], PixelFormat(*pixels))[0]
        assert own.shape == (12, 20, pixels[0]) and own.dtype == f"uint{pixels[1]}"
        np.testing.assert_array_equal(own, predict.read_image(tmp_path / name, channels=pixels[0], bits=pixels[1]))


@pytest.mark.parametrize(
    ("wrong", "code", "words"), [(0, 0, "passed: all labels equal"), (1, 0, "passed: 99.000%"), (2, 1, "FAILED: 98.000%")]
)
def test_the_self_test_needs_the_agreement_of_the_card(predict, tmp_path, monkeypatch, capsys, wrong, code, words):
    expected = np.zeros((10, 10), np.uint8)
    Image.fromarray(expected).save(tmp_path / "test_labels.png")
    Image.fromarray(noise(10, 10)).save(tmp_path / "test.png")
    labels = expected.copy()
    labels.flat[:wrong] = 1
    digest = hashlib.sha256(expected.tobytes()).hexdigest()
    card = {"test_image": "test.png", "channels": 3, "bits": 8, "test_labels_sha256": digest, "min_agreement": 0.99}
    monkeypatch.setattr(predict, "HERE", tmp_path)
    assert predict.selftest(SimpleNamespace(info=card, predict=lambda image: labels)) == code
    assert f"self-test {words}" in capsys.readouterr().out
