"""Reading images and masks, mapping labels, and the data sets of folders: what is right must come out exactly, what is wrong by name."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from segzoo.data.checks import inspect_split
from segzoo.data.dataset_info import distinct_colors
from segzoo.data.image_io import MAX_PIXELS, read_image, read_mask
from segzoo.data.masks import ColorMasks, IndexMasks
from segzoo.registry import DATA, ConfigError
from segzoo.types import IGNORE, DataError

CONF = Path(__file__).parents[2] / "conf"
DATA_ROOT = os.environ.get("SEGZOO_DATA", "")
needs_data = pytest.mark.skipif(not DATA_ROOT, reason="SEGZOO_DATA names no folder with real data")
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def encode(array: np.ndarray | Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    picture.save(file, form, **options)
    return file.getvalue()


def save(path: Path, array: np.ndarray | Image.Image, form: str | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(array, form or {".jpg": "JPEG", ".tif": "TIFF"}.get(path.suffix, "PNG"), **options))
    return path


def noise(height: int = 24, width: int = 31, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int = 40, width: int = 56) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 4, x * 3, (x + y) * 2], axis=-1).astype(np.uint8)


def raw_png(width: int, height: int, bits: int, color: int, rows: list[bytes]) -> bytes:
    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def settings_from(name: str, **changed) -> tuple[str, dict]:
    """A data YAML as the tools compose it, ready for the registry."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = OmegaConf.to_container(compose(f"data/{name}").data, resolve=True)
    assert isinstance(plain, dict)
    given = {str(key): value for key, value in plain.items()} | changed
    return given.pop("name"), given


# --- images


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_pictures_come_back_exactly(tmp_path, form):
    path = save(tmp_path / "a", noise(), form)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"] and image.flags["WRITEABLE"]
    np.testing.assert_array_equal(image, noise())


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_lossy_pictures_are_rgb_and_agree_with_pillow(tmp_path, form):
    path = save(tmp_path / "a", smooth(), form, quality=95)
    wanted = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(read_image(path) - wanted).mean() < 2


@pytest.mark.parametrize("mode, form", [("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "TIFF")])  # fmt: skip
def test_every_mode_becomes_three_channels(tmp_path, mode, form):
    path = save(tmp_path / "a", Image.fromarray(smooth()).convert(mode), form)
    wanted = np.asarray(Image.open(path).convert("RGB")).astype(int)
    image = read_image(path)
    assert image.shape == wanted.shape and np.abs(image - wanted).max() <= (8 if form == "JPEG" else 0)


def test_alpha_is_dropped_not_blended(tmp_path):
    rgba = np.dstack([noise(), np.zeros((24, 31), np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgba)), noise())


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_never_clipped(tmp_path, suffix, channels):
    import cv2

    deep = np.repeat(np.array([[0, 300, 32768, 65535]], np.uint16)[..., None], channels, axis=-1)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), deep if channels == 3 else deep[..., 0])
    np.testing.assert_allclose(read_image(tmp_path / f"a{suffix}")[0, :, 0], [0, 1, 128, 255], atol=1)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_32_bit_pictures_are_refused(tmp_path, dtype):
    path = save(tmp_path / "a.tif", np.ones((4, 5), dtype))
    with pytest.raises(DataError, match=r"a\.tif: holds 32-bit samples.*Convert"):
        read_image(path)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_are_ignored(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    path = save(tmp_path / "a.jpg", smooth(40, 56), exif=exif, quality=95)
    assert np.abs(read_image(path).astype(int) - smooth(40, 56)).mean() < 2


@pytest.mark.parametrize("height, width", [(1, 1), (1, 17), (17, 1), (31, 33), (10, 10000)])
def test_odd_sizes(tmp_path, height, width):
    path = save(tmp_path / "a.png", noise(height, width))
    np.testing.assert_array_equal(read_image(path), noise(height, width))


FAULTS = {
    "empty": (b"", "is empty .0 bytes."),
    "page": (b"\n<!DOCTYPE html><html>Not found</html>", "web page.*download"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "text": (b"hello world, no image at all", "begins with b'hello wo'"),
    "head": (encode(noise(), "PNG")[:20], "Restore"),
    "half png": (encode(noise(), "PNG")[:1500], "damaged PNG"),
    "half jpeg": (encode(noise(200, 200), "JPEG")[:6000], "damaged JPEG.*truncated|truncated.*JPEG"),
    "huge": (raw_png(50000, 50000, 8, 2, [b""]), "Cut it into tiles"),
    "large": (raw_png(20000, 20000, 8, 2, [b""]), "Cut it into tiles"),
    "over the limit": (raw_png(10001, 10000, 8, 2, [b""]), "10001x10000 pixels.*limit of 100 megapixels"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_broken_files_are_named_and_explained(tmp_path, fault, read):
    data, wanted = FAULTS[fault]
    if fault == "half jpeg" and read is read_mask:
        wanted = "JPEG cannot hold labels"
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"broken\.png: (?s:.*)({wanted})"):
        read(path)


def test_a_flipped_bit_in_a_png_never_passes_as_another_picture(tmp_path):
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


def test_a_jpeg_cut_anywhere_is_noticed(tmp_path):
    whole = encode(noise(48, 64), "JPEG")
    path = tmp_path / "a.jpg"
    for length in range(0, len(whole) - 1, 61):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_image(path)
    path.write_bytes(whole + b"trailing words of some camera")
    assert read_image(path).shape == (48, 64, 3)


def test_limit_is_an_argument(tmp_path):
    path = save(tmp_path / "a.png", noise())
    with pytest.raises(DataError, match="31x24 pixels"):
        read_image(path, max_pixels=24 * 31 - 1)
    assert read_image(path, max_pixels=24 * 31).shape == (24, 31, 3)
    assert MAX_PIXELS == 10**8


def test_paths_that_are_no_files(tmp_path, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dead.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name, wanted in {
        "folder.png": "directory",
        "dead.png": "link to .*gone",
        "loop.png": "link",
        "no.png": "No such file",
    }.items():
        with pytest.raises(DataError, match=rf"{name}: cannot be read: .*{wanted}"):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_image(str(tmp_path / "a\0b.png"))

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        read_image(tmp_path / "no.png")


@pytest.mark.parametrize("name", [b"with space \xc3\xa9\xe6\x97\xa5.png", b"n" * 251 + b".png", b"\xff\xfe.png"])
def test_awkward_file_names(tmp_path, name):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    np.testing.assert_array_equal(read_image(save(path, noise())), noise())
    path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        read_image(path)
    str(caught.value).encode("utf-8")  # printable, also where the name is no UTF-8


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_mutated_files_give_a_picture_or_a_data_error(tmp_path, form):
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


# --- masks


@pytest.mark.parametrize(
    "mode, dtype, top", [("L", np.uint8, 255), ("P", np.uint8, 255), ("I;16", np.uint16, 65535), ("1", np.uint8, 1)]
)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@quick
@given(data=st.data())
def test_index_masks_come_back_exactly(tmp_path, mode, dtype, top, form, data):
    raw = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, top)))
    picture = Image.fromarray(raw.astype(bool) if mode == "1" else raw)
    if mode == "P":
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    back = read_mask(save(tmp_path / "m", picture, form))
    assert Image.open(tmp_path / "m").mode == mode and back.dtype == dtype
    np.testing.assert_array_equal(back, raw)


def test_int32_mask_keeps_negative_values(tmp_path):
    raw = np.array([[-1, 0], [70000, 5]], np.int32)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.tif", raw)), raw)


@pytest.mark.parametrize(
    "bits, row, wanted", [(1, b"\x60", [0, 1, 1, 0]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x2f", [0, 1, 2, 15])]
)
def test_grey_masks_of_few_bits_are_not_spread_over_0_to_255(tmp_path, bits, row, wanted):
    (tmp_path / "m.png").write_bytes(raw_png(4, 1, bits, 0, [row]))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), [wanted])


def test_what_is_no_index_mask_is_refused_with_its_remedy(tmp_path):
    three = np.zeros((4, 6, 3), np.uint8)
    three[:, 2:4], three[:, 4:] = (128, 0, 0), (0, 128, 0)
    cases = {
        "rgb": (three, r"RGB with 3 colors \(\[0, 0, 0\], \[0, 128, 0\], \[128, 0, 0\]\).*data.masks=color.*data.palette"),
        "rgba": (np.dstack([three, np.full((4, 6), 255, np.uint8)]), "mode RGBA with 3 colors"),
        "gray": (np.repeat(np.arange(6, dtype=np.uint8)[None, :, None], 3, axis=2), "gray stored as RGB"),
        "photo": (noise(60, 60), "photograph"),
        "la": (Image.fromarray(three).convert("LA"), "mode LA"),
        "cut.tif": (np.ones((4, 6), np.float32), "fractions"),
        "m.jpg": (three, "a JPEG cannot hold labels.*PNG"),
    }
    for name, (array, wanted) in cases.items():
        with pytest.raises(DataError, match=f"{name}: .*{wanted}"):
            read_mask(save(tmp_path / name, array))


def labels_of(tmp_path: Path, raw: np.ndarray, masks: IndexMasks | ColorMasks) -> np.ndarray:
    path = save(tmp_path / "m.tif", raw)
    return masks(path, (raw.shape[0], raw.shape[1]))


@quick
@given(
    table=st.dictionaries(st.integers(-3, 400), st.sampled_from([0, 1, 2, 3, IGNORE]), min_size=1, max_size=12),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int32]),
    data=st.data(),
)
def test_label_map_is_a_look_up_in_the_table(tmp_path, table, dtype, data):
    info = np.iinfo(dtype)
    values = sorted({value for value in table if info.min <= value <= info.max} | {0, 7})
    raw = data.draw(hnp.arrays(dtype, (5, 6), elements=st.sampled_from(values)))
    masks = IndexMasks(4, table)
    strays = {int(value) for value in np.unique(raw)} - table.keys()
    if strays:
        with pytest.raises(DataError, match=rf"{min(strays)} \({int((raw == min(strays)).sum())} pixels\)"):
            labels_of(tmp_path, raw, masks)
    else:
        label = labels_of(tmp_path, raw, masks)
        assert label.dtype == np.uint8 and label.flags["WRITEABLE"]
        np.testing.assert_array_equal(label, np.vectorize(table.__getitem__, otypes=[np.uint8])(raw))


DIAGNOSES = [
    ([0, 255], 2, r"data.label_map=\{0:0,255:1\}"),
    ([7, 11, 26, 33, 0], 19, "Cityscapes labelIds. Use data=cityscapes"),
    ([1, 2, 3], 3, r"count from one. Use data.label_map=\{1:0,2:1,3:2\}"),
    (
        [0, 1, 2, 3],
        3,
        r"0 means 'unlabeled': then use data.label_map=\{0:255,1:0,2:1,3:2\}; .* \{0:0,1:1,2:2,3:255\}|One value more",
    ),
    ([0, 128], 2, r"gray levels.*data.label_map=\{0:0,128:1\}"),
    ([0, 38, 75, 255], 3, r"data.label_map=\{0:0,38:1,75:2,255:255\}"),
    (list(range(40)), 3, "photograph"),
    ([-1, 0, 1], 2, r"negative value.*data.label_map=\{-1:255,0:0,1:1\}"),
    ([0, 1, 2, 9], 2, "Name 10 classes"),
    ([0, 65535], 2, r"\{0:0,65535:1\}"),
    (list(range(1, 151)), 150, r"count from one. Use data.label_map=\{1:0,2:1,3:2,...,150:149\}"),
]


@pytest.mark.parametrize("values, classes, wanted", DIAGNOSES)
def test_wrong_values_are_diagnosed_by_name(tmp_path, values, classes, wanted):
    raw = np.array([values, values], np.int32)
    with pytest.raises(DataError, match=rf"m\.tif: .*({wanted})"):
        labels_of(
            tmp_path, raw if min(values) < 0 else raw.astype(np.uint16 if max(values) > 255 else np.uint8), IndexMasks(classes)
        )


def test_the_remedy_of_a_diagnosis_works(tmp_path):
    binary = np.array([[0, 255]], np.uint8)
    np.testing.assert_array_equal(labels_of(tmp_path, binary, IndexMasks(2, {0: 0, 255: 1})), [[0, 1]])
    np.testing.assert_array_equal(labels_of(tmp_path, binary, IndexMasks(2, {0: 0, 1: 1, 255: 255})), [[0, 255]])


def test_ignore_alone_and_ignore_beside_classes_are_legal(tmp_path):
    np.testing.assert_array_equal(labels_of(tmp_path, np.full((2, 2), 255, np.uint8), IndexMasks(2)), 255)
    np.testing.assert_array_equal(labels_of(tmp_path, np.array([[0, 1, 255]], np.uint8), IndexMasks(2)), [[0, 1, 255]])


def test_value_outside_the_table_counts_its_pixels(tmp_path):
    raw = np.array([[0, 1, 12], [12, 13, 0]], np.uint8)
    with pytest.raises(DataError, match=r"12 \(2 pixels\), 13 \(1 pixels\), which data.label_map does not name.*`12: 255`"):
        labels_of(tmp_path, raw, IndexMasks(2, {0: 0, 1: 1}))


def test_more_than_255_classes_are_uint16(tmp_path):
    raw = np.array([[0, 254, 255, 256, 299]], np.uint16)
    label = labels_of(tmp_path, raw, IndexMasks(300))
    assert label.dtype == np.uint16
    np.testing.assert_array_equal(label, raw)
    names = tuple(f"c{i}" for i in range(300))
    with pytest.raises(ConfigError, match="position 255 must be 'ignore'"):
        DATA.build("folder", "train", root="x", classes=names)
    DATA.build("folder", "train", root="x", classes=(*names[:255], "ignore", *names[256:]))


def test_labels_of_another_size_are_refused(tmp_path):
    path = save(tmp_path / "m.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(DataError, match=r"m\.png: made for 6x4 pixels \(W x H\), but its image has 7x4.*never resized"):
        IndexMasks(2)(path, (4, 7))
    with pytest.raises(DataError, match="EXIF"):
        IndexMasks(2)(path, (6, 4))


@quick
@given(
    palette=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=3, max_size=20, unique=True),
    ids=hnp.arrays(np.uint8, (5, 7), elements=st.integers(0, 255)),
)
def test_colour_masks_are_matched_exactly(tmp_path, palette, ids):
    ids = ids % len(palette)
    masks = ColorMasks(tuple(palette[:-1]), (palette[-1],))
    label = labels_of(tmp_path, np.array(palette, np.uint8)[ids], masks)
    np.testing.assert_array_equal(label, np.where(ids == len(palette) - 1, IGNORE, ids))
    assert label.dtype == np.uint8


def test_colour_masks_name_strangers_and_refuse_see_through(tmp_path):
    palette = ((0, 0, 0), (255, 0, 0))
    colors = np.array([[[0, 0, 0], [255, 0, 0], [254, 0, 0], [254, 0, 0]]], np.uint8)
    masks = ColorMasks(palette, ())
    with pytest.raises(DataError, match=r"m\.tif: holds 1 colors.*\[254, 0, 0\] \(2 pixels\).*data.palette"):
        labels_of(tmp_path, colors, masks)
    with pytest.raises(DataError, match="smoothed"):
        labels_of(tmp_path, noise(), masks)
    opaque = np.dstack([colors[:, :2], np.full((1, 2), 255, np.uint8)])
    np.testing.assert_array_equal(labels_of(tmp_path, opaque, masks), [[0, 1]])
    opaque[0, 0, 3] = 9
    with pytest.raises(DataError, match="see-through pixels .alpha down to 9."):
        labels_of(tmp_path, opaque, masks)
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    indexed.putpalette([255, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(masks(save(tmp_path / "p.png", indexed), (1, 2)), [[1, 0]])
    assert len(pickle.dumps(masks)) < 10_000


# --- folders


def make_pairs(root: Path, images: str, labels: str, stems=("a", "b", "c"), classes: int = 3) -> None:
    for number, stem in enumerate(stems):
        save(root / images.format(stem=stem), noise(6, 8, number))
        save(root / labels.format(stem=stem), np.random.default_rng(number).integers(0, classes, (6, 8), dtype=np.uint8))


def build(root: Path, split: str = "train", **given):
    return DATA.build("folder", split, root=str(root), **{"classes": ("x", "y", "z")} | given)


LAYOUTS = {
    "folders of splits": ("images/train/{stem}.png", "labels/train/{stem}.png", {}),
    "split first": ("train/{stem}.png", "train_mask/{stem}.png", {"images": "{split}/{stem}.*", "labels": "{split}_mask/{stem}.png"}),
    "one folder, two endings": ("train/{stem}.jpg", "train/{stem}.png", {"images": "{split}/{stem}.*", "labels": "{split}/{stem}.png"}),
    "one folder, a suffix": ("train/{stem}.png", "train/{stem}_m.png", {"images": "{split}/{stem}.*", "labels": "{split}/{stem}_m.png"}),
    "cities": ("img/train/ulm/{stem}_i.png", "gt/train/ulm/{stem}_l.png", {"images": "img/{split}/{stem}_i.png", "labels": "gt/{split}/{stem}_l.png"}),
    "a folder each": ("train/{stem}/rgb.png", "train/{stem}/gt.png", {"images": "{split}/{stem}/rgb.png", "labels": "{split}/{stem}/gt.png"}),
    "capital endings": ("images/train/{stem}.PNG", "labels/train/{stem}.Png", {}),
    "other names": ("images/learn/{stem}.tif", "labels/learn/{stem}.png", {"splits": {"train": "learn", "val": "check"}}),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_settings(tmp_path, layout):
    images, labels, given_settings = LAYOUTS[layout]
    make_pairs(tmp_path, images, labels)
    (tmp_path / images.format(stem="a")).parent.joinpath(".DS_Store.png").write_bytes(b"hidden")
    data = build(tmp_path, **given_settings)
    assert len(data) == 3
    assert [Path(data.name(i)).name for i in range(3)] == ["a", "b", "c"]
    for number in range(3):
        sample = data[number]
        assert sample.image.shape == (6, 8, 3) and sample.name == data.name(number)
        np.testing.assert_array_equal(sample.label, np.random.default_rng(number).integers(0, 3, (6, 8), dtype=np.uint8))


def test_nothing_is_opened_before_the_first_use(tmp_path, monkeypatch):
    data = build(tmp_path / "absent")
    assert data.info.num_classes == 3 and data.info.palette == distinct_colors(3)
    with pytest.raises(DataError, match=r"absent is not a folder.*images/train/\{stem\}\.\*.*SEGZOO_DATA"):
        len(data)
    make_pairs(tmp_path / "absent", *LAYOUTS["folders of splits"][:2])
    assert len(data) == 3
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("opened a file"))
    assert data.name(1) == "b"


def test_default_colours_are_those_of_pascal_voc():
    name, given_settings = settings_from("voc")
    assert DATA.build(name, "val", **given_settings).info.palette == distinct_colors(21)
    assert len(set(distinct_colors(5000))) == 5000


def test_missing_partners_are_listed_both_ways(tmp_path):
    make_pairs(tmp_path, *LAYOUTS["folders of splits"][:2], stems=[f"s{i}" for i in range(9)])
    for number in range(6):
        (tmp_path / f"labels/train/s{number}.png").unlink()
    (tmp_path / "images/train/s8.png").unlink()
    with pytest.raises(
        DataError, match=r"1 of 9 have no image .*: s8\. 6 of 9 have no label .*: s0, s1, s2, s3, s4, \.\.\..*data\.lists"
    ):
        len(build(tmp_path))


def test_faults_of_the_tree(tmp_path):
    make_pairs(tmp_path, *LAYOUTS["folders of splits"][:2])
    with pytest.raises(DataError, match=r"labels/val is not a folder. Beside it stand: train"):
        len(build(tmp_path, "val"))
    (tmp_path / "images/val").mkdir()
    (tmp_path / "labels/val").mkdir()
    with pytest.raises(DataError, match="split 'val' .* is empty"):
        len(build(tmp_path, "val"))
    save(tmp_path / "images/train/b.jpg", noise())
    with pytest.raises(DataError, match="share the stem 'b'"):
        len(build(tmp_path))
    assert len(build(tmp_path, images="images/{split}/{stem}.png")) == 3


def test_a_bad_file_in_a_data_set_is_named(tmp_path):
    make_pairs(tmp_path, *LAYOUTS["folders of splits"][:2])
    data = build(tmp_path)
    (tmp_path / "images/train/a.png").write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match=r"images/train/a\.png: is a web page"):
        data[0]
    save(tmp_path / "labels/train/b.png", np.zeros((3, 8), np.uint8))
    with pytest.raises(DataError, match=r"labels/train/b\.png: made for 8x3"):
        data[1]
    assert len(data) == 3
    (tmp_path / "images/train/c.png").unlink()
    with pytest.raises(DataError, match=r"images/train/c\.png: cannot be read: No such file"):
        data[2]


def test_links_are_followed_and_loops_are_not(tmp_path):
    make_pairs(tmp_path / "store", "i/{stem}.png", "l/{stem}.png")
    for kind, target in {"images": "i", "labels": "l"}.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "train").symlink_to(tmp_path / "store" / target)
        (tmp_path / "store" / target / "loop").symlink_to(tmp_path / "store" / target)
    assert len(build(tmp_path)) == 3


def test_lists_choose_and_order(tmp_path):
    make_pairs(tmp_path, "i/{stem}.png", "l/{stem}.png", stems=("a", "b", "c d", "sub/e"))
    given_settings = {"images": "i/{stem}.*", "labels": "l/{stem}.png", "lists": "{split}.txt"}
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfc d\r\n\r\n  a \r\nsub/e")
    data = build(tmp_path, **given_settings)
    assert [data.name(i) for i in range(len(data))] == ["c d", "a", "sub/e"]
    faults = {
        b"": "train.txt: the list is empty",
        b"\n \r\n": "train.txt: the list is empty",
        b"a\nb\na\n": "line 3: 'a' stands in line 1 already",
        b"../a": r"line 1: '../a' leads out",
        b"a\n/etc/passwd": r"line 2: '/etc/passwd' leads out",
        b"sub/../../a": "leads out",
        b"C:/a": "leads out",
        b"a.png\nb.png": "write stems, without the ending",
        b"a\nq": r"1 of 2 have no image i/\{stem\}.*: q\. 1 of 2 have no label",
        "a\nb".encode("utf-16"): "Save it as UTF-8",
    }
    for content, wanted in faults.items():
        (tmp_path / "train.txt").write_bytes(content)
        with pytest.raises(DataError, match=wanted):
            len(build(tmp_path, **given_settings))
    with pytest.raises(DataError, match=r"val\.txt: cannot be read: No such file"):
        len(build(tmp_path, "val", **given_settings))


def test_val_share_divides_for_good(tmp_path):
    stems = [f"{i:03d}" for i in range(60)]
    make_pairs(tmp_path, "i/{stem}.png", "l/{stem}.png", stems=stems)
    given_settings = {"images": "i/{stem}.*", "labels": "l/{stem}.png", "val_ratio": 0.25}
    train, val = (build(tmp_path, split, **given_settings) for split in ("train", "val"))
    halves = [{data.name(i) for i in range(len(data))} for data in (train, val)]
    assert not halves[0] & halves[1] and sorted(halves[0] | halves[1]) == stems
    assert 5 <= len(val) <= 25
    make_pairs(tmp_path, "i/{stem}.png", "l/{stem}.png", stems=["new1", "new2"])
    for split, half in zip(("train", "val"), halves, strict=True):
        grown = build(tmp_path, split, **given_settings)
        assert {grown.name(i) for i in range(len(grown))} - {"new1", "new2"} == half
    with pytest.raises(DataError, match=r"empty.*val_ratio=1e-09"):
        len(build(tmp_path, "val", **given_settings | {"val_ratio": 1e-9}))


def test_settings_that_cannot_work_are_refused_all_at_once():
    with pytest.raises(ConfigError) as caught:
        DATA.build("folder", "test", root="x", classes=("a", "a", "b"), images="{stem}/*.png", labels="{stm}.png", masks="color",
                   label_map={0: 9}, palette=((0, 0, 0), (0, 0, 0)), splits={"train": "t"})  # fmt: skip
    faults = "\n".join(caught.value.errors)
    for word in ("'train' or 'val'", "names a more than once", "2 colors for 3 classes", "leads to 9", "data.splits", "data.labels=", "data.images=",
                 "nothing tells train from val", "data.label_map is for", r"[0, 0, 0] twice"):  # fmt: skip
        assert word in faults
    with pytest.raises(ConfigError, match="needs data.palette"):
        DATA.build("folder", "train", root="x", classes=("a", "b"), masks="color")
    with pytest.raises(ConfigError, match="ignore_colors is for"):
        DATA.build("folder", "train", root="x", classes=("a", "b"), ignore_colors=((0, 0, 0),))
    with pytest.raises(ConfigError, match="val_ratio divides"):
        DATA.build("folder", "train", root="x", classes=("a", "b"), val_ratio=0.2)
    with pytest.raises(ConfigError, match="val_ratio"):
        DATA.build("folder", "train", root="x", classes=("a", "b"), images="{stem}.*", val_ratio=0.0)


def test_data_sets_travel_to_workers(tmp_path):
    make_pairs(tmp_path, *LAYOUTS["folders of splits"][:2])
    data = pickle.loads(pickle.dumps(build(tmp_path)))
    np.testing.assert_array_equal(data[0].image, build(tmp_path)[0].image)


def test_voc_as_its_archive_unpacks(tmp_path):
    make_pairs(tmp_path, "JPEGImages/{stem}.jpg", "SegmentationClass/{stem}.png", stems=("2007_01", "2007_02"), classes=21)
    save(tmp_path / "JPEGImages/2008_unlabelled.jpg", noise())
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_02\n")
    name, given_settings = settings_from("voc", root=str(tmp_path))
    data = DATA.build(name, "val", **given_settings)
    assert len(data) == 1 and data.name(0) == "2007_02" and data.info.num_classes == 21
    save(tmp_path / "SegmentationClass/2007_02.png", np.full((6, 8), 255, np.uint8))
    assert (data[0].label == IGNORE).all()


# --- Cityscapes


def make_city(root: Path, split: str = "train", kind: str = "labelIds", city: str = "ulm", top: int = 34) -> np.ndarray:
    stem = f"{split}/{city}/{city}_000000_000019"
    save(root / f"leftImg8bit/{stem}_leftImg8bit.png", noise(8, 16))
    raw = np.arange(128, dtype=np.uint8).reshape(8, 16) % top
    save(root / f"gtFine/{stem}_gtFine_{kind}.png", raw)
    save(root / f"gtFine/{stem}_gtFine_instanceIds.png", raw)
    return raw


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    raw = make_city(tmp_path)
    make_city(tmp_path, city="aachen")
    name, given_settings = settings_from("cityscapes", root=str(tmp_path))
    data = DATA.build(name, "train", **given_settings)
    assert [data.name(i) for i in range(len(data))] == ["aachen/aachen_000000_000019", "ulm/ulm_000000_000019"]
    label = data[1].label
    evaluated = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]  # the benchmark's 19, in order
    for train, label_id in enumerate(evaluated):
        assert (label[raw == label_id] == train).all()
    assert (label[~np.isin(raw, evaluated)] == IGNORE).all()
    assert data.info.classes[0] == "road" and data.info.classes[18] == "bicycle" and data.info.palette[13] == (0, 0, 142)


def test_cityscapes_prefers_train_ids_and_holds_files_to_their_names(tmp_path):
    make_city(tmp_path)
    name, given_settings = settings_from("cityscapes", root=str(tmp_path))
    save(tmp_path / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelTrainIds.png", np.full((8, 16), 18, np.uint8))
    assert (DATA.build(name, "train", **given_settings)[0].label == 18).all()
    assert (DATA.build(name, "train", **given_settings | {"labels": "labelIds"})[0].label != 18).any()
    make_city(tmp_path, kind="labelTrainIds")
    with pytest.raises(
        DataError, match=r"labelTrainIds\.png: holds the values 19 .*saved under the wrong name.*data.labels=labelIds"
    ):
        DATA.build(name, "train", **given_settings)[0]
    save(tmp_path / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png", np.full((8, 16), 255, np.uint8))
    with pytest.raises(
        DataError, match=r"labelIds\.png: holds the values 255 \(128 pixels\).*train ids saved under the wrong name"
    ):
        DATA.build(name, "train", **given_settings | {"labels": "labelIds"})[0]


def test_cityscapes_missing_parts(tmp_path):
    name, given_settings = settings_from("cityscapes", root=str(tmp_path))
    with pytest.raises(DataError, match="gtFine/train is not a folder"):
        len(DATA.build(name, "train", **given_settings))
    make_city(tmp_path)
    (tmp_path / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"1 of 1 have no label gtFine.*labelIds.*Unpack .*gtFine_trainvaltest\.zip"):
        len(DATA.build(name, "train", **given_settings))
    with pytest.raises(ConfigError, match="not public"):
        DATA.build(name, "test", **given_settings)


# --- the look before a training


def test_verify_counts_pictures_sizes_and_classes(tmp_path):
    make_pairs(tmp_path, *LAYOUTS["folders of splits"][:2])
    half = np.full((6, 8), 255, np.uint8)
    half[:, :2] = 1
    for stem in "abc":
        save(tmp_path / f"labels/train/{stem}.png", half)
    report = inspect_split(build(tmp_path), seconds=60)
    assert (report.images, report.num_read, report.sizes) == (3, 3, {(6, 8): 3})
    assert report.class_fractions == {"x": 0, "y": 1, "z": 0} and report.ignored_fraction == 0.75 and report.absent == ("x", "z")
    assert [line.split(" ")[0] for line in report.warnings()] == ["in", "75%"]
    assert inspect_split(build(tmp_path), seconds=1e-9).num_read == 1
    save(tmp_path / "labels/train/c.png", half * 0 + 7)
    with pytest.raises(DataError, match=r"c\.png: holds the values 7"):
        inspect_split(build(tmp_path), seconds=60)


def test_verify_of_nothing_but_ignore_and_of_many_classes(tmp_path):
    make_pairs(tmp_path, *LAYOUTS["folders of splits"][:2], stems=["a"])
    save(tmp_path / "labels/train/a.png", np.full((6, 8), 255, np.uint8))
    report = inspect_split(build(tmp_path))
    assert report.ignored_fraction == 1 and len(report.warnings()) == 1 and "all are ignored" in report.warnings()[0]
    save(tmp_path / "labels/train/a.png", np.array([[256] * 8] * 6, np.uint16))
    names = (*[f"c{i}" for i in range(255)], "ignore", "last")
    assert inspect_split(build(tmp_path, classes=names)).class_fractions["last"] == 1


# --- real data


CAMVID_SHARES = [
    17.54,
    24.22,
    1.02,
    32.96,
    4.67,
    10.12,
    1.22,
    1.17,
    6.11,
    0.67,
    0.30,
]  # of the labeled pixels of train, in percent


@pytest.mark.data
@needs_data
def test_camvid_is_whole():
    name, given_settings = settings_from("camvid")
    train, val = (DATA.build(name, split, **given_settings) for split in ("train", "val"))
    assert (len(train), len(val)) == (367, 101)
    counts = np.zeros(256, np.int64)
    for index in range(len(train)):
        sample = train[index]
        assert sample.image.shape == (360, 480, 3) and sample.label.shape == (360, 480)
        counts += np.bincount(sample.label.ravel(), minlength=256)
    assert counts[11:255].sum() == 0 and counts[IGNORE] > 0
    np.testing.assert_allclose(100 * counts[:11] / counts[:11].sum(), CAMVID_SHARES, atol=0.01)
    seen = set().union(*(np.unique(val[index].label) for index in range(0, len(val), 5)))
    assert seen == {*range(11), IGNORE}


@pytest.mark.data
@needs_data
def test_camvid_statistics_and_palette():
    name, given_settings = settings_from("camvid")
    data = DATA.build(name, "train", **given_settings)
    pixels = np.concatenate([data[index].image[::4, ::4].reshape(-1, 3) for index in range(0, len(data), 3)])
    np.testing.assert_allclose(pixels.mean(axis=0), data.info.mean, atol=1.5)
    np.testing.assert_allclose(pixels.std(axis=0), data.info.std, atol=1.5)
    stored = Image.open(data.scan()[0].label).getpalette()  # type: ignore[arg-type]
    assert stored is not None and np.array_equal(np.reshape(stored[:33], (11, 3)), data.info.palette)
