"""Complete check of a data set: what it finds beyond invalid files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_actions import run_action
from image_files import build_folder, save

from segzoo.data.verification.complete import verify_splits
from segzoo.registry import DATA

SPLITS = ("train", "val")
CLASSES = ("background", "y", "z")


def blocks(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Random image that survives compression."""
    return cv2.resize(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8), (width, height))


def make_set(root: Path) -> None:
    for split, seed in (("train", 0), ("val", 10)):
        for number, stem in enumerate("abcd", seed):
            save(root / f"images/{split}/{stem}.png", blocks(number))
            save(root / f"labels/{split}/{stem}.png", np.resize(np.arange(3, dtype=np.uint8), (48, 64)))


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1]


def mask(root: Path, values: list[int], names: tuple[str, ...]) -> None:
    for name in names:
        save(root / f"labels/{name}.png", np.resize(np.array(values, np.uint8), (48, 64)))


def copied(root: Path) -> None:
    (root / "images/val/b.png").write_bytes((root / "images/train/c.png").read_bytes())


def stored_again(root: Path) -> None:
    (root / "images/val/b.png").unlink()
    save(root / "images/val/b.tif", read(root / "images/train/c.png"))


def compressed(root: Path) -> None:
    (root / "images/val/b.png").unlink()
    save(root / "images/val/b.jpg", read(root / "images/train/c.png"), quality=60)


def repeated(root: Path) -> None:
    (root / "images/train/b.png").write_bytes((root / "images/train/a.png").read_bytes())


def contradicting(root: Path) -> None:
    repeated(root)
    mask(root, [0, 2], ("train/b",))


def gray(root: Path) -> None:
    save(root / "images/train/b.png", blocks(1)[..., 0])


def dark(root: Path) -> None:
    for stem in "abcd":
        save(root / f"images/train/{stem}.png", blocks(ord(stem))[..., 0].astype(np.uint16) * 8)


FOUND: dict[str, tuple[Callable[[Path], object], str, bool, str]] = {  # kind, is_error, text
    "a copy in val": (
        copied,
        "leak",
        True,
        r"1 of 4 images of val are also in train, so its scores will be too high: .*val/b\.png and .*train/c\.png\. Take them out",
    ),
    "the same pixels in another format": (stored_again, "leak", True, r"val/b\.tif and .*train/c\.png"),
    "a compressed copy in val": (compressed, "near_duplicate", False, r"look the same as one of train: .*val/b\.jpg and .*train/c\.png"),
    "a repeated image": (repeated, "duplicate", False, r"train: 1 images equal another one: .*train/b\.png and .*train/a\.png"),
    "two labels of one image": (contradicting, "contradiction", False, "have other labels.*Correct one"),
    "an image of one color": (
        lambda root: save(root / "images/train/b.png", np.full((48, 64, 3), 7, np.uint8)),
        "constant",
        False,
        r"train: 1 of 4 images \(first .*train/b\.png\) show a single color",
    ),
    "images of one color": (
        lambda root: [save(root / f"images/val/{stem}.png", np.full((48, 64, 3), ord(stem), np.uint8)) for stem in "abcd"],
        "constant",
        True,
        "val: each of the 4 images read shows a single color",
    ),
    "an image of another kind": (gray, "kind", False, r"3 8-bit RGB PNG, 1 8-bit gray PNG \(such as .*train/b\.png\)"),
    "12 bits in 16": (dark, "dark", False, "train: 4 of 4 .* read as nearly black. Multiply"),
    "masks of background": (lambda root: mask(root, [0], ("train/a", "train/b")), "background", False, "train: 2 of 4 .* background alone"),
    "an ignored mask": (lambda root: mask(root, [255], ("val/c",)), "ignored", False, r"val: 1 of 4 .*val/c\.png\) have labels that are all ignored"),
    "a class absent from val": (
        lambda root: mask(root, [0, 1], tuple(f"val/{stem}" for stem in "abcd")),
        "classes",
        False,
        "val: in 4 of 4 images, 1 of 3 classes are absent: z",
    ),
    "a class absent from train": (
        lambda root: mask(root, [0, 1], tuple(f"train/{stem}" for stem in "abcd")),
        "unseen_class",
        False,
        "val: z is labeled here but not in train",
    ),
    "many ignored pixels": (
        lambda root: mask(root, [0, 1, 2, 255, 255, 255], tuple(f"val/{stem}" for stem in "abcd")),
        "classes",
        False,
        "val: 50% of the pixels are ignored",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_may_spoil_a_training_is_found(tmp_path, name):
    change, kind, is_error, text = FOUND[name]
    make_set(tmp_path)
    splits = {split: build_folder(tmp_path, split, classes=CLASSES) for split in SPLITS}
    assert verify_splits(splits).findings == []
    change(tmp_path)
    splits = {split: build_folder(tmp_path, split, classes=CLASSES) for split in SPLITS}
    found = [finding for finding in verify_splits(splits).findings if finding.kind == kind]
    assert len(found) == 1 and found[0].is_error == is_error
    assert re.search(text, found[0].text), found[0].text


def test_a_set_without_files_is_verified_whole():
    found = verify_splits(
        {split: DATA.build("parts", split, height=64, width=64, train_images=3, val_images=2) for split in SPLITS}
    )
    assert {name: report.num_read for name, report in found.reports.items()} == {"train": 3, "val": 2} and not found.errors


def test_the_report_has_sizes_kinds_values_and_the_images_of_each_finding(tmp_path):
    make_set(tmp_path / "my")
    compressed(tmp_path / "my")
    label_map = "data.label_map={0:1,1:0,2:255}"
    root = f"data.root={tmp_path / 'my'}"
    report = run_action(tmp_path / "out", "data=folder", root, "data.classes=[background,y]", label_map)
    assert not report.errors and json.loads(json.dumps(report.result)) == report.result
    val = report.result["splits"]["val"]
    assert (val["images"], val["read"], val["sizes"]) == (4, 4, {"64x48": 4})
    assert val["kinds"] == {"8-bit RGB PNG": 3, "8-bit RGB JPEG": 1}
    assert val["values"] == {"0": 4096, "1": 4096, "2": 4096} and val["train_ids"] == {"0": 1, "1": 0, "2": 255}
    assert val["class_fractions"] == {"background": 0.5, "y": 0.5} and val["ignored_fraction"] == pytest.approx(1 / 3)
    duplicate = next(finding for finding in report.result["findings"] if finding["kind"] == "near_duplicate")
    assert duplicate["images"] == ["train/c", "val/b"]
    assert "| 2 | 255 | 4096 | 4096 |" in report.text and "note: 1 of 4 images of val look the same" in report.text
    save(tmp_path / "my/labels/val/c.png", np.full((48, 64), 9, np.uint8))
    report = run_action(tmp_path / "out", "data=folder", root, "data.classes=[background,y]", label_map)
    assert len(report.errors) == 1 and "val/c.png: holds the values 9" in report.errors[0]
    assert report.result["splits"]["val"]["values"]["9"] == 48 * 64


def test_no_shares_are_shown_where_errors_kept_labels_from_being_counted(tmp_path):
    make_set(tmp_path / "my")
    (tmp_path / "my/images/train/b.png").write_bytes(b"broken")
    report = run_action(tmp_path / "out", "data=folder", f"data.root={tmp_path / 'my'}", f"data.classes=[{','.join(CLASSES)}]")
    rows = [line.replace(" ", "") for line in report.text.splitlines()]
    assert "|y|-|33.33%|" in rows and "have errors, see below." in report.text
