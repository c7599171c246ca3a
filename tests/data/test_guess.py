"""Settings that data=auto guesses from a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from image_files import noise, save
from PIL import Image

from segzoo.data.checks.check import check_splits
from segzoo.data.guess.section import guess_section
from segzoo.registry import DATA, ConfigError
from segzoo.types import DataError

IDS = np.arange(20 * 24, dtype=np.int64).reshape(20, 24) // 40 % 3  # train ids
COLORS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)  # also of VOC
OWN_COLORS = np.array([[9, 9, 9], [250, 200, 0], [0, 7, 250]], np.uint8)


def palette_mask(ids: np.ndarray) -> Image.Image:
    image = Image.fromarray(ids.astype(np.uint8)).convert("P")
    image.putpalette(OWN_COLORS.tobytes())
    return image


def sorted_palette(ids: np.ndarray) -> Image.Image:
    """A mask as ``quantize`` saves it, with indices of its own."""
    return Image.fromarray(OWN_COLORS[ids]).quantize(3)


def values(*raw: int, dtype: type = np.uint8) -> Callable[[np.ndarray], np.ndarray]:
    return lambda ids: np.array(raw, dtype)[ids]


# how masks are saved -> settings that are guessed besides the patterns
KINDS: dict[str, tuple[Callable, dict]] = {
    "train ids": (values(0, 1, 2), {"classes": ["class_0", "class_1", "class_2"]}),
    "16 bits": (values(0, 1, 2, dtype=np.uint16), {"classes": ["class_0", "class_1", "class_2"]}),
    "from one": (values(1, 2, 3), {"label_map": {1: 0, 2: 1, 3: 2}}),
    "gray levels": (values(0, 127, 254), {"label_map": {0: 0, 127: 1, 254: 2}}),
    "palettes": (palette_mask, {"palette": OWN_COLORS.tolist()}),
    "VOC colors": (lambda ids: COLORS[ids], {"masks": "color", "palette": COLORS.tolist()}),
    "a palette each": (lambda ids: sorted_palette(ids if ids[0, 0] else ids.clip(1)), {"masks": "color"}),
}


def make(root: Path, images: str, labels: str, encode: Callable, names: int = 8, listed: str = "") -> None:
    for number in range(names):
        stem = f"im{number}"
        save(root / images.format(stem=stem), noise(20, 24, sum(map(ord, images)) + number))
        save(root / labels.format(stem=stem), encode((IDS + number) % 3))


def build(root: Path) -> tuple[dict, dict]:
    section = dict(guess_section(str(root)).section)
    settings = {key: value for key, value in section.items() if key != "name"}
    return section, {split: DATA.build(section["name"], split, **settings) for split in ("train", "val")}


def same_up_to_names(label: np.ndarray, ids: np.ndarray) -> bool:
    pairs = set(zip(label.ravel().tolist(), ids.ravel().tolist(), strict=True))
    return len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_read_as_they_were_made(tmp_path, kind):
    encode, expected = KINDS[kind]
    for split in ("train", "val"):
        make(tmp_path, f"images/{split}/{{stem}}.png", f"masks/{split}/{{stem}}.png", encode)
    section, splits = build(tmp_path)
    assert {key: section.get(key) for key in expected} == expected
    assert all(report.num_read == 8 for report in check_splits(splits).values())
    for number in range(8):
        ids = (IDS + number) % 3
        if kind == "a palette each":
            ids = ids if ids[0, 0] else ids.clip(1)
        label = splits["train"][number].label
        assert same_up_to_names(label, ids)
        assert kind in ("a palette each",) or np.array_equal(label, ids)


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        ("train/{stem}.jpg", "train/{stem}.png", {"images": "train/{stem}.jpg", "labels": "train/{stem}.png", "val_ratio": 0.2}),
        ("x/{stem}.png", "x/{stem}_mask.png", {"images": "x/{stem}.png", "labels": "x/{stem}_mask.png", "val_ratio": 0.2}),
        ("images/train/{stem}.jpg", "labels/train/{stem}.png", {"images": "images/train/{stem}.*", "val_ratio": 0.2}),
    ],
)
def test_without_a_validation_split_a_fifth_of_the_images_is_drawn(tmp_path, images, labels, expected):
    make(tmp_path, images, labels, values(0, 1, 2), names=24)
    section, splits = build(tmp_path)
    assert {key: section[key] for key in expected} == expected
    assert sum(map(len, splits.values())) == 24 and 1 <= len(splits["val"]) <= 10
    assert "nothing separates train from val" in guess_section(str(tmp_path)).yaml()


LISTS = {
    "labelmap.txt": ("# label:color_rgb:parts:actions\nbelt:9,9,9::\nnut:250,200,0::\npin:0,7,250::\nrare:1,1,1::\n", "color", ["belt", "nut", "pin", "rare"]),
    "class_dict.csv": ("name,r,g,b\nbelt,9,9,9\nnut,250,200,0\npin,0,7,250\nVoid,3,3,3\n", "color", ["belt", "nut", "pin"]),
    "label_colors.txt": ("9 9 9\tbelt\n250 200 0\t\tnut\n0 7 250 pin\n", "color", ["belt", "nut", "pin"]),
    "classes.txt": ("belt\r\nnut\r\npin\r\nrare\r\n", "index", ["belt", "nut", "pin", "rare"]),
    "labels.txt": ("nut\npin\n", "index", ["background", "nut", "pin"]),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_classes_give_names_and_colors(tmp_path, name):
    text, masks, names = LISTS[name]
    make(tmp_path, "i/{stem}.png", "masks/{stem}.png", (lambda ids: OWN_COLORS[ids]) if masks == "color" else values(0, 1, 2))
    (tmp_path / name).write_bytes(text.encode())
    section, splits = build(tmp_path)
    assert section.get("masks", "index") == masks and section["classes"] == names
    assert section.get("ignore_colors", []) == ([[3, 3, 3]] if "Void" in text else [])
    check_splits(splits)
    for split in splits.values():
        for index in range(len(split)):
            np.testing.assert_array_equal(split[index].label, (IDS + int(split.name(index)[2:])) % 3)


def test_binary_masks_and_ignored_pixels(tmp_path):
    make(tmp_path / "a", "i/{stem}.png", "masks/{stem}.png", values(0, 255, 255))
    section = guess_section(str(tmp_path / "a")).section
    assert (section["classes"], section["label_map"]) == (["background", "foreground"], {0: 0, 255: 1})
    make(tmp_path / "b", "i/{stem}.png", "masks/{stem}.png", values(0, 1, 255))
    section = guess_section(str(tmp_path / "b")).section
    assert section["classes"] == ["class_0", "class_1"] and "label_map" not in section
    make(tmp_path / "c", "i/{stem}.png", "masks/{stem}.png", values(2, 1, 255))
    assert guess_section(str(tmp_path / "c")).section["label_map"] == {1: 0, 2: 1, 255: 255}


def test_labelme_files(tmp_path):
    for number, label in enumerate(("pit", "crack", "__ignore__", "pit ")):
        save(tmp_path / f"{number}.jpg", noise(20, 24, number))
        shape = {"label": label, "points": [[2, 2], [9, 2], [9, 9]], "shape_type": "polygon"}
        record = {"version": "5.5.0", "shapes": [shape], "imageHeight": 20, "imageWidth": 24}
        (tmp_path / f"{number}.json").write_text(json.dumps(record))
    section, _ = build(tmp_path)
    assert section["name"] == "labelme" and section["classes"] == ["background", "crack", "pit"] and section["val_ratio"] == 0.2


def soft(ids: np.ndarray) -> np.ndarray:
    return np.linspace(0, 255, ids.size).reshape(ids.shape).astype(np.uint8)


NOTHING: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda root: root.rmdir(), "there is no such folder"),
    "an empty folder": (lambda _: None, "could not be matched. It is empty"),
    "images alone": (lambda root: save(root / "i/a.jpg", noise()), r"could not be matched.* there are i/ \(1 \.jpg"),
    "soft masks": (lambda root: make(root, "i/{stem}.png", "masks/{stem}.png", soft), "hold 256 values: are these photographs"),
    "smoothed colors": (
        lambda root: make(root, "i/{stem}.png", "masks/{stem}.png", lambda ids: noise(20, 24) // 32 * 32),
        "colors: are these photographs",
    ),
    "one value": (lambda root: make(root, "i/{stem}.png", "masks/{stem}.png", values(4, 4, 4)), "hold the value 4 alone"),
    "Cityscapes": (
        lambda root: make(root, "leftImg8bit/train/u/{stem}_leftImg8bit.png", "gtFine/train/u/{stem}_gtFine_labelIds.png", values(7, 8, 9)),
        "Use data=cityscapes with this data.root",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
def test_a_folder_that_nothing_fits_is_explained(tmp_path, name):
    root = tmp_path / "my"
    root.mkdir()
    NOTHING[name][0](root)
    with pytest.raises(DataError, match=f"(?s){NOTHING[name][1]}"):
        guess_section(str(root))


def test_the_data_set_auto_needs_acceptance(tmp_path):
    make(tmp_path, "i/{stem}.png", "masks/{stem}.png", values(0, 1, 2))
    with pytest.raises(ConfigError, match=r"(?s)guesses these settings.*classes: \[class_0.*add data\.accept=true"):
        DATA.build("auto", "train", root=str(tmp_path))
    assert DATA.build("auto", "train", root=str(tmp_path), accept=True).info.num_classes == 3
    loaded = yaml.safe_load(guess_section(str(tmp_path)).yaml())
    assert loaded["defaults"] == ["folder", "_self_"] and loaded["root"] == str(tmp_path)


def labelme_files(folder: Path, label: str, names: int) -> None:
    for number in range(names):
        save(folder / f"{folder.name}{number}.jpg", noise(20, 24, number))
        shapes = [{"label": label, "points": [[2, 2], [9, 2], [9, 9]], "shape_type": "polygon"}]
        (folder / f"{folder.name}{number}.json").write_text(
            json.dumps({"version": "5", "shapes": shapes, "imageHeight": 20, "imageWidth": 24})
        )


def test_folders_of_several_days_are_one_data_set(tmp_path):
    labelme_files(tmp_path / "monday", "scratch", 6)
    labelme_files(tmp_path / "tuesday", "dent", 8)
    guess = guess_section(str(tmp_path))
    assert guess.section["images"] == "{stem}.jpg" and guess.section["labels"] == "{stem}.json"
    assert guess.section["classes"] == ["background", "dent", "scratch"] and "14 of 14" in guess.remarks[0]


def test_masks_of_several_days_are_one_data_set_unless_images_lack_labels(tmp_path):
    for day in ("monday", "tuesday"):
        make(tmp_path, f"images/{day}/{{stem}}.png", f"masks/{day}/{{stem}}.png", values(0, 1, 2))
    assert guess_section(str(tmp_path)).section["images"] == "images/{stem}.*"
    save(tmp_path / "images/wednesday/a.png", noise(20, 24))
    guess = guess_section(str(tmp_path))
    assert guess.section["images"] == "images/monday/{stem}.*"
    assert guess.remarks[-1] == "images with labels in images/tuesday are left out."


def test_val_is_not_taken_from_test(tmp_path):
    for split in ("test", "train", "valid"):
        make(tmp_path, f"images/{split}/{{stem}}.png", f"masks/{split}/{{stem}}.png", values(0, 1, 2))
    section, splits = build(tmp_path)
    assert section["splits"] == {"train": "train", "val": "valid"}
    assert "valid" in str(splits["val"].scan()[0].image)  # type: ignore[attr-defined]


def test_linked_folders_are_read(tmp_path):
    make(tmp_path / "elsewhere", "images/{stem}.png", "masks/{stem}.png", values(0, 1, 2))
    (tmp_path / "my").mkdir()
    for name in ("images", "masks"):
        (tmp_path / "my" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere/images/loop").symlink_to(tmp_path / "elsewhere/images")
    assert len(build(tmp_path / "my")[1]["train"]) > 0


def test_few_labeled_files_among_many_are_found(tmp_path):
    for number in range(450):
        (tmp_path / f"{number:03}.jpg").write_bytes(b"")
    (tmp_path / "001.json").write_text(json.dumps({"shapes": [{"label": "dent"}, {"label": "ignore"}], "imagePath": "001.jpg"}))
    assert guess_section(str(tmp_path)).section["classes"] == ["background", "dent"]


def test_names_without_a_background_are_remarked_on(tmp_path):
    make(tmp_path, "images/{stem}.png", "masks/{stem}.png", values(0, 1, 2))
    (tmp_path / "classes.txt").write_text("scratch\ndent\nhole\n")
    assert "If 0 is one, add it to classes before scratch" in guess_section(str(tmp_path)).yaml()
    (tmp_path / "classes.txt").write_text("background\nscratch\ndent\n")
    assert "add it to classes" not in guess_section(str(tmp_path)).yaml()


def test_a_label_that_looks_misspelled_is_noted(tmp_path):
    for number in range(12):
        save(tmp_path / f"im{number}.jpg", noise(20, 24))
        label = "crak" if number == 5 else "crack"
        own = [{"label": label, "points": [[2, 2], [9, 3], [5, 9]], "shape_type": "polygon"}]
        (tmp_path / f"im{number}.json").write_text(json.dumps({"shapes": own, "imageHeight": 20, "imageWidth": 24}))
    remarks = guess_section(str(tmp_path)).remarks
    assert any(
        "'crak' (1 annotation) is close to 'crack' (11). If it is a misspelling, correct it in the files." in remark
        for remark in remarks
    )


def test_the_command_of_a_conversion_ends_the_message(tmp_path):
    save(tmp_path / "i/a.jpg", noise())
    (tmp_path / "i/a.txt").write_text("0 0.1 0.2 0.3 0.4 0.5 0.6\n")
    with pytest.raises(DataError) as caught:
        guess_section(str(tmp_path))
    assert str(caught.value).endswith(f"action=convert action.format=yolo action.source={tmp_path}")
