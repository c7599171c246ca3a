"""Images and masks in folders: layouts, lists, splits and errors."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from image_files import SPLIT_FOLDERS, build_folder, make_pairs, noise, save, settings_from

from segzoo.registry import DATA, ConfigError
from segzoo.types import IGNORE, DataError
from segzoo.visualization.palette import OKABE_ITO

LAYOUTS = {
    "folder per split": (*SPLIT_FOLDERS, {}),
    "split first": ("train/{stem}.png", "train_mask/{stem}.png", {"images": "{split}/{stem}.*", "labels": "{split}_mask/{stem}.png"}),
    "one folder, two extensions": ("train/{stem}.jpg", "train/{stem}.png", {"images": "{split}/{stem}.*", "labels": "{split}/{stem}.png"}),
    "one folder, a suffix": ("train/{stem}.png", "train/{stem}_m.png", {"images": "{split}/{stem}.*", "labels": "{split}/{stem}_m.png"}),
    "nested folders": ("img/train/ulm/{stem}_i.png", "gt/train/ulm/{stem}_l.png", {"images": "img/{split}/{stem}_i.png", "labels": "gt/{split}/{stem}_l.png"}),
    "folder per image": ("train/{stem}/rgb.png", "train/{stem}/gt.png", {"images": "{split}/{stem}/rgb.png", "labels": "{split}/{stem}/gt.png"}),
    "uppercase extensions": ("images/train/{stem}.PNG", "labels/train/{stem}.Png", {}),
    "other names": ("images/learn/{stem}.tif", "labels/learn/{stem}.png", {"splits": {"train": "learn", "val": "check"}}),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folder_layouts(tmp_path, layout):
    images, labels, options = LAYOUTS[layout]
    make_pairs(tmp_path, images, labels)
    (tmp_path / images.format(stem="a")).parent.joinpath(".DS_Store.png").write_bytes(b"hidden")
    data = build_folder(tmp_path, **options)
    assert len(data) == 3
    assert [Path(data.name(i)).name for i in range(3)] == ["a", "b", "c"]
    for number in range(3):
        sample = data[number]
        assert sample.image.shape == (6, 8, 3) and sample.name == data.name(number)
        np.testing.assert_array_equal(sample.label, np.random.default_rng(number).integers(0, 3, (6, 8), dtype=np.uint8))


def test_no_file_is_opened_before_first_use(tmp_path, monkeypatch):
    data = build_folder(tmp_path / "absent")
    assert data.info.num_classes == 3 and data.info.palette == OKABE_ITO[:3]
    with pytest.raises(DataError, match=r"absent is not a folder.*images/train/\{stem\}\.\*.*data\.root=<folder>"):
        len(data)
    make_pairs(tmp_path / "absent", *SPLIT_FOLDERS)
    assert len(data) == 3
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("opened a file"))
    assert data.name(1) == "b"


def test_voc_has_its_official_colors():
    name, options = settings_from("voc")
    expected = []
    for index in range(21):  # the color map of VOC's development kit
        bits = [[index >> (3 * digit + channel) & 1 for digit in range(8)] for channel in range(3)]
        expected.append(tuple(sum(bit << (7 - digit) for digit, bit in enumerate(channel)) for channel in bits))
    assert DATA.build(name, "val", **options).info.palette == tuple(expected)


def test_missing_images_and_labels_are_both_listed(tmp_path):
    make_pairs(tmp_path, *SPLIT_FOLDERS, stems=[f"s{i}" for i in range(9)])
    for number in range(6):
        (tmp_path / f"labels/train/s{number}.png").unlink()
    (tmp_path / "images/train/s8.png").unlink()
    with pytest.raises(
        DataError,
        match=r"1 of 9 pairs have no image .*: s8\. 6 of 9 pairs have no label .*: s0, s1, s2, s3, s4, \.\.\..*data\.lists",
    ):
        len(build_folder(tmp_path))


def test_missing_empty_and_ambiguous_folders(tmp_path):
    make_pairs(tmp_path, *SPLIT_FOLDERS)
    with pytest.raises(DataError, match=r"labels/val is not a folder\..* labels/train/ \(3 .png: a.png, b.png, ...\)") as caught:
        len(build_folder(tmp_path, "val"))
    assert "These settings may fit" not in str(caught.value)  # they are those in use
    (tmp_path / "images/val").mkdir()
    (tmp_path / "labels/val").mkdir()
    with pytest.raises(DataError, match="split 'val' .* is empty"):
        len(build_folder(tmp_path, "val"))
    save(tmp_path / "images/train/b.jpg", noise())
    with pytest.raises(DataError, match="share the stem 'b'"):
        len(build_folder(tmp_path))
    assert len(build_folder(tmp_path, images="images/{split}/{stem}.png")) == 3


def test_an_invalid_file_in_a_data_set_is_named(tmp_path):
    make_pairs(tmp_path, *SPLIT_FOLDERS)
    data = build_folder(tmp_path)
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
    assert len(build_folder(tmp_path)) == 3


def test_a_linked_folder_below_the_images_is_read(tmp_path):
    make_pairs(tmp_path / "store", "i/{stem}.png", "l/{stem}.png")
    for kind, target in {"images": "i", "labels": "l"}.items():
        (tmp_path / kind / "train").mkdir(parents=True)
        (tmp_path / kind / "train" / "camera").symlink_to(tmp_path / "store" / target)
    data = build_folder(tmp_path)
    assert [data.name(i) for i in range(len(data))] == ["camera/a", "camera/b", "camera/c"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    make_pairs(tmp_path, "images/train/{stem}.png", "labels/train/{stem}.png", stems=("a", "sub/b"))
    scandir = os.scandir

    def fail(folder):
        if str(folder).endswith("images/train/sub"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(DataError, match="images/train/sub: cannot be listed: Permission denied. Make it readable"):
        len(build_folder(tmp_path))


def test_lists_select_and_order_images(tmp_path):
    make_pairs(tmp_path, "i/{stem}.png", "l/{stem}.png", stems=("a", "b", "c d", "sub/e"))
    options = {"images": "i/{stem}.*", "labels": "l/{stem}.png", "lists": "{split}.txt"}
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfc d\r\n\r\n  a \r\nsub/e")
    data = build_folder(tmp_path, **options)
    assert [data.name(i) for i in range(len(data))] == ["c d", "a", "sub/e"]
    errors = {
        b"": "train.txt: the list is empty",
        b"\n \r\n": "train.txt: the list is empty",
        b"a\nb\na\n": "line 3: 'a' is already on line 1",
        b"../a": r"line 1: '../a' points outside",
        b"a\n/etc/passwd": r"line 2: '/etc/passwd' points outside",
        b"sub/../../a": "points outside",
        b"C:/a": "points outside",
        b"a.png\nb.png": "use stems, without the extension",
        b"a\nq": r"1 of 2 pairs have no image i/\{stem\}.*: q\. 1 of 2 pairs have no label",
        "a\nb".encode("utf-16"): "Save it as UTF-8",
    }
    for content, expected in errors.items():
        (tmp_path / "train.txt").write_bytes(content)
        with pytest.raises(DataError, match=expected):
            len(build_folder(tmp_path, **options))
    with pytest.raises(DataError, match=r"val\.txt: there is no such list.*data\.lists"):
        len(build_folder(tmp_path, "val", **options))


def test_val_ratio_split_is_stable(tmp_path):
    stems = [f"{i:03d}" for i in range(60)]
    make_pairs(tmp_path, "i/{stem}.png", "l/{stem}.png", stems=stems)
    options = {"images": "i/{stem}.*", "labels": "l/{stem}.png", "val_ratio": 0.25}
    train, val = (build_folder(tmp_path, split, **options) for split in ("train", "val"))
    names = [{data.name(i) for i in range(len(data))} for data in (train, val)]
    assert not names[0] & names[1] and sorted(names[0] | names[1]) == stems
    assert 5 <= len(val) <= 25
    make_pairs(tmp_path, "i/{stem}.png", "l/{stem}.png", stems=["new1", "new2"])
    for split, before in zip(("train", "val"), names, strict=True):
        extended = build_folder(tmp_path, split, **options)
        assert {extended.name(i) for i in range(len(extended))} - {"new1", "new2"} == before
    with pytest.raises(DataError, match=r"empty: data.val_ratio=1e-09 assigns it none of the 62 images"):
        len(build_folder(tmp_path, "val", **options | {"val_ratio": 1e-9}))


def test_invalid_settings_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        DATA.build("folder", "tset", root="x", classes=("a", "a", "b"), images="{stem}/*.png", labels="{stm}.png", masks="color",
                   label_map={0: 9}, palette=((0, 0, 0), (0, 0, 0)), splits={"train": "t"})  # fmt: skip
    errors = "\n".join(caught.value.errors)
    for text in ("unknown split 'tset'. Did you mean 'test'?", "names a more than once", "2 colors for 3 classes", "maps to 9", "data.splits", "data.labels=", "data.images=",
                 "nothing separates train from val", "data.label_map is for", "[0, 0, 0] more than once"):  # fmt: skip
        assert text in errors
    with pytest.raises(ConfigError, match=r"data.images and data.labels are the same pattern '\{split\}/\{stem\}.png'"):
        DATA.build("folder", "train", root="x", classes=("a", "b"), images="{split}/{stem}.png", labels="{split}/{stem}.png")
    with pytest.raises(ConfigError, match="needs data.palette"):
        DATA.build("folder", "train", root="x", classes=("a", "b"), masks="color")
    with pytest.raises(ConfigError, match="ignore_colors is for"):
        DATA.build("folder", "train", root="x", classes=("a", "b"), ignore_colors=((0, 0, 0),))
    with pytest.raises(ConfigError, match="val_ratio splits"):
        DATA.build("folder", "train", root="x", classes=("a", "b"), val_ratio=0.2)
    with pytest.raises(ConfigError, match="val_ratio"):
        DATA.build("folder", "train", root="x", classes=("a", "b"), images="{stem}.*", val_ratio=0.0)


def test_a_second_mask_of_an_image_is_named(tmp_path):
    for name in ("benign (1).png", "benign (1)_mask.png", "benign (1)_mask_1.png"):  # as in BUSI
        save(tmp_path / "benign" / name, np.zeros((6, 8), np.uint8))
    options = {"images": "benign/{stem}.png", "labels": "benign/{stem}_mask.png", "val_ratio": 1.0}
    with pytest.raises(DataError, match=r"1 of 2 pairs have no label .*: benign \(1\)_mask_1\."):
        len(build_folder(tmp_path, "val", **options))


def test_data_sets_can_be_pickled(tmp_path):
    make_pairs(tmp_path, *SPLIT_FOLDERS)
    data = pickle.loads(pickle.dumps(build_folder(tmp_path)))
    np.testing.assert_array_equal(data[0].image, build_folder(tmp_path)[0].image)


def test_voc_archive_layout(tmp_path):
    make_pairs(tmp_path, "JPEGImages/{stem}.jpg", "SegmentationClass/{stem}.png", stems=("2007_01", "2007_02"), classes=21)
    save(tmp_path / "JPEGImages/2008_unlabeled.jpg", noise())
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_02\n")
    name, options = settings_from("voc", root=str(tmp_path))
    data = DATA.build(name, "val", **options)
    assert len(data) == 1 and data.name(0) == "2007_02" and data.info.num_classes == 21
    save(tmp_path / "SegmentationClass/2007_02.png", np.full((6, 8), 255, np.uint8))
    assert (data[0].label == IGNORE).all()
