"""Reading of images and masks, and errors that name the file."""

from __future__ import annotations

import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import encode, noise, raw_png, save, smooth
from PIL import Image

from segzoo import image_decoder
from segzoo.data.image_io import MAX_PIXELS, read_image, read_mask
from segzoo.types import DataError


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_images_are_read_exactly(tmp_path, form):
    path = save(tmp_path / "a", noise(), form)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"] and image.flags["WRITEABLE"]
    np.testing.assert_array_equal(image, noise())


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_lossy_images_are_rgb_and_agree_with_pillow(tmp_path, form):
    path = save(tmp_path / "a", smooth(), form, quality=95)
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(read_image(path) - expected).mean() < 2


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        *(
            ("JPEG", {"quality": q, "subsampling": s, "progressive": p})
            for q, s, p in [(95, 0, False), (60, 1, True), (75, 2, False)]
        ),
    ],
)
def test_opencv_and_pillow_decode_the_same_pixels(monkeypatch, mode, form, options):
    image = Image.fromarray(np.concatenate([noise(41, 56), smooth(41, 56)])).convert(mode)
    content = encode(image, form, **options)
    pixels, orientation = image_decoder.decode_rgb(content)
    monkeypatch.setitem(sys.modules, "cv2", None)  # as in a bundle without OpenCV
    expected, _ = image_decoder.decode_rgb(content)
    np.testing.assert_array_equal(pixels, expected)
    assert orientation == 1 and pixels.flags["WRITEABLE"] and pixels.flags["C_CONTIGUOUS"]


def test_opencv_decodes_ordinary_files_only(monkeypatch):
    decoded = []
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: decoded.append(flags))
    image = Image.fromarray(noise())
    for mode, form in (("RGB", "PNG"), ("L", "PNG"), ("RGB", "JPEG"), ("L", "JPEG")):
        image_decoder.decode_rgb(encode(image.convert(mode), form))
    assert len(decoded) == 4
    tagged = Image.Exif()
    tagged[image_decoder.ORIENTATION] = 6
    special = [
        encode(image.convert(mode), form) for mode, form in (("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("RGB", "WEBP"))
    ]
    special += [encode(image, "PNG", exif=tagged), encode(image, "JPEG", exif=tagged), encode(image, "JPEG") + b"tail"]
    for content in special:
        image_decoder.decode_rgb(content)
    assert len(decoded) == 4


@pytest.mark.parametrize("mode, form", [("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "TIFF")])  # fmt: skip
def test_every_mode_becomes_three_channels(tmp_path, mode, form):
    path = save(tmp_path / "a", Image.fromarray(smooth()).convert(mode), form)
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    image = read_image(path)
    assert image.shape == expected.shape and np.abs(image - expected).max() <= (8 if form == "JPEG" else 0)


def test_alpha_is_dropped_not_blended(tmp_path):
    rgba = np.dstack([noise(), np.zeros((24, 31), np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgba)), noise())


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_samples_are_scaled_not_clipped(tmp_path, suffix, channels):
    deep = np.repeat(np.array([[0, 300, 32768, 65535]], np.uint16)[..., None], channels, axis=-1)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), deep if channels == 3 else deep[..., 0])
    np.testing.assert_allclose(read_image(tmp_path / f"a{suffix}")[0, :, 0], [0, 1, 128, 255], atol=1)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_32_bit_images_are_rejected(tmp_path, dtype):
    path = save(tmp_path / "a.tif", np.ones((4, 5), dtype))
    with pytest.raises(DataError, match=r"a\.tif: holds 32-bit samples.*Convert"):
        read_image(path)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 17), (17, 1), (31, 33), (10, 10000)])
def test_odd_sizes(tmp_path, height, width):
    path = save(tmp_path / "a.png", noise(height, width))
    np.testing.assert_array_equal(read_image(path), noise(height, width))


BROKEN_FILES = {
    "empty": (b"", "is empty .0 bytes."),
    "web page": (b"\n<!DOCTYPE html><html>Not found</html>", "web page.*download"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "text": (b"hello world, no image at all", "it begins with b'hello wo'"),
    "header only": (encode(noise(), "PNG")[:20], "Restore"),
    "half png": (encode(noise(), "PNG")[:1500], "damaged PNG"),
    "half jpeg": (encode(noise(200, 200), "JPEG")[:6000], "damaged JPEG.*truncated|truncated.*JPEG"),
    "huge": (raw_png(50000, 50000, 8, 2, [b""]), "Cut it into tiles"),
    "large": (raw_png(20000, 20000, 8, 2, [b""]), "Cut it into tiles"),
    "over the limit": (raw_png(10001, 10000, 8, 2, [b""]), "10001x10000 pixels.*limit of 100 megapixels"),
}


@pytest.mark.parametrize("kind", BROKEN_FILES)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_broken_files_are_named_and_explained(tmp_path, kind, read):
    data, expected = BROKEN_FILES[kind]
    if kind == "half jpeg" and read is read_mask:
        expected = "JPEG cannot store labels"
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"broken\.png: (?s:.*)({expected})"):
        read(path)


def test_a_flipped_bit_in_a_png_is_never_read_as_another_image(tmp_path):
    flat = (np.add.outer(np.arange(24) // 5, np.arange(31) // 7) % 4).astype(np.uint8)
    path = tmp_path / "a.png"
    for array, read in ((noise(), read_image), (flat, read_mask)):
        data = encode(array, "PNG")
        for position in np.linspace(8, len(data) - 1, 97).astype(int):
            path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
            try:
                np.testing.assert_array_equal(read(path), array)
            except DataError as error:
                assert "a.png: " in str(error)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_an_image_is_decoded_once(tmp_path, monkeypatch, form):
    from PIL import ImageFile

    decoded, real = [], ImageFile.ImageFile.load_prepare  # called before the decoder runs
    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", lambda self: (decoded.append(self.format), real(self))[1])
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags, real=cv2.imdecode: (decoded.append("PNG"), real(data, flags))[1])
    path = save(tmp_path / "a", noise(), form)
    if form == "JPEG":
        path.write_bytes(path.read_bytes() + b"trailing bytes of some camera")
    read_image(path)
    assert decoded == [form]


def test_a_truncated_jpeg_is_detected(tmp_path):
    whole = encode(noise(48, 64), "JPEG")
    path = tmp_path / "a.jpg"
    for length in range(0, len(whole) - 1, 61):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_image(path)
    path.write_bytes(whole + b"trailing bytes of some camera")
    assert read_image(path).shape == (48, 64, 3)


def test_pixel_limit_is_an_argument(tmp_path):
    path = save(tmp_path / "a.png", noise())
    with pytest.raises(DataError, match="31x24 pixels"):
        read_image(path, max_pixels=24 * 31 - 1)
    assert read_image(path, max_pixels=24 * 31).shape == (24, 31, 3)
    assert MAX_PIXELS == 10**8


def test_unreadable_paths(tmp_path, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dead.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name, expected in {
        "folder.png": "directory",
        "dead.png": "link to .*gone",
        "loop.png": "link",
        "no.png": "No such file",
    }.items():
        with pytest.raises(DataError, match=rf"{name}: cannot be read: .*{expected}"):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_image(str(tmp_path / "a\0b.png"))

    def deny(self):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "denied.png").touch()
    monkeypatch.setattr(Path, "read_bytes", deny)
    with pytest.raises(DataError, match="Permission denied"):
        read_image(tmp_path / "denied.png")


@pytest.mark.parametrize("name", [b"with space \xc3\xa9\xe6\x97\xa5.png", b"n" * 251 + b".png", b"\xff\xfe.png"])
def test_awkward_file_names(tmp_path, name):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    np.testing.assert_array_equal(read_image(save(path, noise())), noise())
    path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        read_image(path)
    str(caught.value).encode("utf-8")  # printable even if the name is not UTF-8


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_mutated_files_give_an_image_or_a_data_error(tmp_path, form):
    whole = encode(smooth(), form)
    path = tmp_path / "fuzz"
    rng = np.random.default_rng(7)
    errors = 0
    for _ in range(100):
        data = bytearray(whole)
        for position in rng.integers(0, len(data), rng.integers(1, 6)):
            data[position] = rng.integers(0, 256)
        path.write_bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.2 else data)
        for read in (read_image, read_mask):
            try:
                array = read(path)
                assert array.ndim == (3 if read is read_image else 2)
            except DataError:
                errors += 1
    assert errors > 20


def test_threads_that_decode_leave_the_filters_of_warnings_as_they_were():
    before, content = list(warnings.filters), encode(Image.new("RGB", (8, 8)), "TIFF")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: image_decoder.decode_rgb(content), range(400)))
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before
