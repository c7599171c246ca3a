"""Broken data sets and their diagnoses before a training starts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from image_files import encode, noise, save, settings_from
from PIL import Image

from segzoo.data.checks.check import check_splits
from segzoo.data.verification.complete import verify_splits
from segzoo.registry import DATA
from segzoo.types import DataError

SIZE = (24, 32)  # (H, W)


class Broken(NamedTuple):
    """A broken data set and its diagnosis."""

    break_it: Callable[[Path], object]
    diagnosis: str  # regular expression
    options: dict = {}
    data: str = "folder"


def make_valid(root: Path) -> None:
    """Write valid data sets for folder and labelme."""
    for split, seed in (("train", 0), ("val", 10)):
        for number, stem in enumerate("abc", seed):
            image = noise(*SIZE, number)
            save(root / f"images/{split}/{stem}.png", image)
            save(root / f"labels/{split}/{stem}.png", tiled([0, 1, 2]))
            save(root / f"lm/{split}/{stem}.png", image)
            labelme(root, {}, split, stem)


def tiled(values: list, dtype: type = np.uint8) -> np.ndarray:
    """Blocks of some values or colors, each as frequent."""
    array = np.array(values, dtype)
    return array[np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) * len(values) // (SIZE[0] * SIZE[1])]


def masks(values: list, splits: tuple[str, ...] = ("train", "val"), dtype: type = np.uint8) -> Callable[[Path], object]:
    """Write all masks of some splits with the given values or colors."""
    return lambda root: [save(root / f"labels/{split}/{stem}.png", tiled(values, dtype)) for split in splits for stem in "abc"]


def one_mask(image: np.ndarray | Image.Image, name: str = "labels/train/b.png") -> Callable[[Path], object]:
    return lambda root: save(root / name, image)


def content(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(data)


def edited(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(edit((root / name).read_bytes()))


def jpegs(edit: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Replace an image by a damaged JPEG."""

    def plant(root: Path) -> None:
        (root / "images/train/b.png").unlink()
        (root / "images/train/b.jpg").write_bytes(edit(encode(noise(*SIZE), "JPEG")))

    return plant


def labelme(root: Path, changes: dict, split: str = "train", stem: str = "b") -> None:
    square = {"label": "y", "points": [[2, 2], [20, 2], [20, 12]], "shape_type": "polygon"}
    record = {"version": "5.5.0", "shapes": [square], "imageHeight": SIZE[0], "imageWidth": SIZE[1]} | changes
    (root / f"lm/{split}/{stem}.json").write_text(json.dumps(record))


def shape(**changes) -> Callable[[Path], object]:
    polygon = {"label": "y", "points": [[2, 2], [20, 2], [20, 12]], "shape_type": "polygon"} | changes
    return lambda root: labelme(root, {"shapes": [polygon]})


def with_palette(ids: np.ndarray, colors: list[list[int]]) -> Image.Image:
    image = Image.fromarray(ids.astype(np.uint8)).convert("P")
    image.putpalette(np.array(colors, np.uint8).tobytes())
    return image


def soft_edges() -> np.ndarray:
    """A disk of 255 whose edge has four gray levels."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.round((5 * (9 - np.hypot(y - 12, x - 16))).clip(0, 5)).astype(np.uint8) * 51


def turned(root: Path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    save(root / "images/train/b.png", noise(*SIZE), exif=exif)


def quantized(root: Path) -> None:
    """Masks of one set with a palette for each."""
    for number, stem in enumerate("abc"):
        save(root / f"labels/train/{stem}.png", with_palette(tiled([0, 1]), [[0, 0, 0], [255, 0, 0]][:: 1 - 2 * (number % 2)]))


def lists(**texts: str) -> Callable[[Path], object]:
    return lambda root: [(root / f"{split}.txt").write_text(text) for split, text in texts.items()]


def cityscapes(kind: str, values: list) -> Callable[[Path], object]:
    def plant(root: Path) -> None:
        for split, seed in (("train", 0), ("val", 1)):
            save(root / f"leftImg8bit/{split}/ulm/ulm_0_leftImg8bit.png", noise(*SIZE, seed))
            save(root / f"gtFine/{split}/ulm/ulm_0_gtFine_{kind}.png", tiled(values))

    return plant


def several(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda root: [step(root) for step in steps]


IMAGE, LABEL = "images/train/b.png", "labels/train/b.png"
COLORS = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
COLOR = {"masks": "color", "palette": COLORS}
LISTS = {"images": "images/{split}/{stem}.*", "lists": "{split}.txt"}
TWO = {"classes": ("x", "y")}
NINETEEN = {"classes": tuple(f"c{i}" for i in range(19))}

BROKEN = {
    # image files
    "an empty image": Broken(content(IMAGE, b""), r"train/b\.png: is empty \(0 bytes\)"),
    "a truncated PNG": Broken(edited(IMAGE, lambda data: data[:-60]), r"train/b\.png: damaged PNG"),
    "a flipped bit in a PNG": Broken(edited(IMAGE, lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:]), "a checksum"),
    "a truncated JPEG": Broken(jpegs(lambda data: data[:-300]), r"train/b\.jpg: damaged JPEG file \(.*truncated"),
    "a JPEG cut in its head": Broken(jpegs(lambda data: data[:30]), r"train/b\.jpg: "),
    "a web page": Broken(content(IMAGE, b"<!DOCTYPE html>"), r"b\.png: is a web page, not an image: the download failed"),
    "an LFS pointer": Broken(content(IMAGE, b"version https://git-lfs.github.com/spec/v1\n"), "run `git lfs pull`"),
    "an HEIC image": Broken(content(IMAGE, b"\0\0\0\x18ftypheic\0\0\0\0"), "HEIC or AVIF image. Convert it to PNG or JPEG"),
    "an image of floats": Broken(
        several(lambda root: (root / IMAGE).unlink(), one_mask(np.ones(SIZE, np.float32), "images/train/b.tif")),
        r"b\.tif: holds 32-bit samples \(mode F\).*Convert it to 8-bit RGB",
    ),
    "images of one color": Broken(
        lambda root: [save(root / f"images/train/{stem}.png", np.zeros((*SIZE, 3), np.uint8)) for stem in "abc"],
        "each of the 3 images read shows a single color.*Check that data.images",
    ),
    "a dangling link": Broken(
        several(lambda root: (root / IMAGE).unlink(), lambda root: (root / IMAGE).symlink_to("gone.png")),
        r"a link to gone\.png, which does not exist",
    ),
    "an image without a mask": Broken(lambda root: (root / LABEL).unlink(), r"1 of 3 pairs have no label labels/train/\{stem\}\.png: b\."),
    "a mask without an image": Broken(lambda root: (root / IMAGE).unlink(), r"1 of 3 pairs have no image images/train/\{stem\}\.\*: b\."),
    "two images of one mask": Broken(one_mask(noise(*SIZE), "images/train/b.jpg"), r"share the stem 'b'\. Remove one"),
    "no mask folder": Broken(lambda root: shutil.rmtree(root / "labels"), r"labels/train is not a folder.*In .* there are images/train"),
    "an empty list": Broken(lists(train="\n", val="a\n"), r"train\.txt: the list is empty", LISTS),
    "a list of file names": Broken(lists(train="a.png\nb.png\n", val="a\n"), "seems to contain file names: use stems", LISTS),
    "a list that repeats an image": Broken(lists(train="a\nb\na\n", val="a\n"), r"line 3: 'a' is already on line 1", LISTS),
    "a list that leaves the folder": Broken(lists(train="../a\n", val="a\n"), "line 1: '../a' points outside the data set", LISTS),
    # sizes and orientations
    "a mask of another size": Broken(one_mask(np.zeros((24, 30), np.uint8)), r"b\.png: made for 30x24 pixels.*image has 32x24"),
    "a mask turned by 90 degrees": Broken(one_mask(np.zeros((32, 24), np.uint8)), "was the image rotated after it was labeled"),
    "an image turned by 180 degrees": Broken(turned, r"EXIF orientation 3.*set data.label_orientation=upright"),
    # masks that are no masks
    "a JPEG mask": Broken(
        lambda root: [save(root / f"labels/{split}/{stem}.jpg", tiled([0, 1])) for split in ("train", "val") for stem in "abc"],
        r"a JPEG cannot store labels.*the same in 2 more places",
        {"labels": "labels/{split}/{stem}.jpg"},
    ),
    "a NumPy mask": Broken(content(LABEL, b"\x93NUMPY\x01\0"), "NumPy array, not an image. Save it as PNG: python -c"),
    "a mask of floats": Broken(
        lambda root: [save(root / f"labels/{split}/{stem}.tif", tiled([0, 1], np.float32)) for split in ("train", "val") for stem in "abc"],
        "holds fractions .32-bit float., not class ids",
        {"labels": "labels/{split}/{stem}.tif"},
    ),
    "photographs as masks": Broken(lambda _: None, "of 2304 colors .*expected one number per pixel", {"labels": "images/{split}/{stem}.png", "images": "lm/{split}/{stem}.png"}),
    "gray photographs as masks": Broken(
        lambda root: [save(root / f"labels/train/{stem}.png", noise(*SIZE)[..., 0]) for stem in "abc"], "is it a photograph"
    ),
    "gray masks saved as RGB": Broken(masks([[0] * 3, [1] * 3]), r"They are gray: save one channel, `Image\.open"),
    # values
    "one wrong pixel": Broken(
        one_mask(np.pad([[9]], ((5, 18), (7, 24))).astype(np.uint8)), r"train/b\.png: holds the values 9 \(1 pixels\).*first at x=7, y=5"
    ),
    "masks of 0 and 255": Broken(masks([0, 255]), r"binary: use 'data\.label_map=\{0:0,255:1\}'", TWO),
    "masks of 0 and 255, three classes": Broken(masks([0, 255]), r"use 'data\.label_map=\{0:0,255:1\}' with two classes"),
    "soft masks": Broken(
        lambda root: [save(root / f"labels/train/{stem}.png", soft_edges()) for stem in "abc"],
        r"3 rare values lie between 0, 255: .*soft .*ignore these pixels with 'data\.label_map=\{0:0,102:255,153:255,204:255,255:1\}'",
        TWO,
    ),
    "soft masks of many levels": Broken(masks(list(range(256))), "256 different values are too many .* smoothed, resized or saved as JPEG"),
    "labelIds": Broken(masks([7, 8, 11, 26, 33]), "these are Cityscapes labelIds. Use data=cityscapes", NINETEEN),
    "values from one": Broken(masks([1, 2, 3]), r"count from one\. Use 'data\.label_map=\{1:0,2:1,3:2\}'"),
    "values from one, 0 unlabeled": Broken(masks([0, 1, 2, 3]), r"one label value more than classes.*'data\.label_map=\{0:255,1:0,2:1,3:2\}'"),
    "a class without a name": Broken(masks([0, 1, 2]), "If data.classes lacks a name .is 0 the background", TWO),
    "gray levels for classes": Broken(masks([0, 127, 254]), r"gray levels for classes: use 'data\.label_map=\{0:0,127:1,254:2\}'"),
    "-1 for unlabeled": Broken(
        lambda root: [save(root / f"labels/{s}/{stem}.tif", tiled([-1, 0, 1], np.int32)) for s in ("train", "val") for stem in "abc"],
        r"negative value usually means 'unlabeled': use 'data\.label_map=\{-1:255,0:0,1:1,2:2\}'",
        {"labels": "labels/{split}/{stem}.tif"},
    ),
    "instance numbers": Broken(masks([0, 1001, 1002, 2001], dtype=np.uint16), "the values 1001 .*, 1002 .*, 2001 "),
    "a value missing from the map": Broken(masks([0, 1, 7]), r"missing from data.label_map.*\{0:0,1:1,7:255\}", {"label_map": {0: 0, 1: 1}}),
    # labels with nothing to learn
    "everything ignored": Broken(masks([255]), "all pixels of its 3 label files are ignored: there is nothing to learn from"),
    "everything mapped to ignore": Broken(
        masks([0, 7]), r"maps the values 0, 7 to 255: give them train ids, such as 'data\.label_map=\{0:0,7:1\}'", {"label_map": {0: 255, 7: 255}}
    ),
    "an ignored validation set": Broken(masks([255], ("val",)), "split 'val': all pixels .* there is nothing to score"),
    "nothing but background": Broken(masks([0]), "all labeled pixels of its 3 label files are 'x': there is nothing to learn"),
    "all values in one class": Broken(masks([0, 5]), "label_map maps the values 0, 5 to it", {"label_map": {0: 1, 5: 1}}),
    # colors
    "color masks": Broken(masks([[9, 9, 9], [200, 0, 0]]), r"data\.masks=color 'data\.palette=\[\[9,9,9\],\[200,0,0\]\]'"),
    "VOC color masks": Broken(masks([[0, 0, 0], [128, 0, 0], [224, 224, 192]]), "colors of Pascal VOC, in its order"),
    "a palette for each mask": Broken(quantized, "the indices are no class ids. Read the colors instead: use data.masks=color"),
    "palette masks read as colors": Broken(
        lambda root: [save(root / f"labels/{s}/{stem}.png", with_palette(tiled([0, 1, 2]), [[1, 1, 1], [2, 2, 2], [3, 0, 3]])) for s in ("train", "val") for stem in "abc"],
        r"store the numbers 0, 1, 2 .* read them as numbers with data\.masks=index.*'data\.palette=\[\[1,1,1\],\[2,2,2\],\[3,0,3\]\]'",
        COLOR,
    ),
    "index masks read as colors": Broken(lambda _: None, r"the numbers 0, 1, 2 .* data\.masks=index", COLOR),
    "a palette in another order": Broken(
        lambda root: [save(root / f"labels/train/{stem}.png", with_palette(tiled([0, 1, 2]), [*map(list, COLORS)])) for stem in "abc"],
        "which has it for class 2. If the colors are right, read them with data.masks=color",
        {"palette": (COLORS[0], COLORS[2], COLORS[1])},
    ),
    "an unknown color": Broken(
        masks([[0, 0, 0], [255, 0, 0], [7, 7, 9]]), r"\[7, 7, 9\] \(.*first at x=0, y=16\. .*'data\.ignore_colors=\[\[7,7,9\]\]'", COLOR
    ),
    "smoothed color masks": Broken(masks([[i, 0, 0] for i in range(0, 256, 3)]), "look smoothed, resized or blended", COLOR),
    "transparent color masks": Broken(masks([[0, 0, 0, 0], [255, 0, 0, 255]]), r"pixels are transparent. Set data\.transparent=background", COLOR),
    "half transparent color masks": Broken(masks([[0, 0, 0, 9], [255, 0, 0, 255]]), "half transparent, so their color is undefined", COLOR),
    # LabelMe and Cityscapes
    "an unknown LabelMe label": Broken(shape(label="zz"), r"b\.json, shape 1 \(label 'zz'\).* Valid: x, y, z", data="labelme"),
    "a LabelMe polygon of two points": Broken(shape(points=[[1, 1], [9, 9]]), r"shape 1 .*polygon with 2 points", data="labelme"),
    "a LabelMe shape outside": Broken(shape(points=[[1, 1], [90, 1], [9, 9]]), r"shape 1 ", data="labelme"),
    "a LabelMe file of another image": Broken(lambda root: labelme(root, {"imageHeight": 99}), "made for 32x99 pixels", data="labelme"),
    "a COCO file as LabelMe": Broken(content("lm/train/b.json", b'{"images": [], "annotations": []}'), "has no list 'shapes'", data="labelme"),
    "invalid JSON": Broken(content("lm/train/b.json", b'{"shapes": ['), r"b\.json: is not valid JSON", data="labelme"),
    "train ids named labelIds": Broken(cityscapes("labelIds", [0, 1, 255]), "train ids saved under the wrong name", data="cityscapes"),
    "labelIds named labelTrainIds": Broken(cityscapes("labelTrainIds", [7, 8, 33]), "labelIds saved under the wrong name", data="cityscapes"),
}  # fmt: skip


def build(root: Path, broken: Broken) -> dict:
    if broken.data == "cityscapes":
        _, options = settings_from("cityscapes", root=str(root))
    else:
        options = {"root": str(root / "lm" if broken.data == "labelme" else root), "classes": ("x", "y", "z")} | broken.options
    return {split: DATA.build(broken.data, split, **options) for split in ("train", "val")}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_data_set_is_diagnosed_and_never_reaches_the_training(tmp_path, name):
    make_valid(tmp_path)
    BROKEN[name].break_it(tmp_path)
    splits = build(tmp_path, BROKEN[name])
    with pytest.raises(DataError, match=f"(?s){BROKEN[name].diagnosis}"):
        check_splits(splits)
    assert re.search(f"(?s){BROKEN[name].diagnosis}", "\n".join(verify_splits(splits).errors))


def test_the_valid_data_set_has_no_finding(tmp_path):
    make_valid(tmp_path)
    for data in ("folder", "labelme"):
        splits = build(tmp_path, Broken(lambda _: None, "", {"classes": ("x", "y")} if data == "labelme" else {}, data))
        assert all(not report.warnings() for report in check_splits(splits).values())
        assert verify_splits(splits).findings == []
    assert len(BROKEN) >= 40
