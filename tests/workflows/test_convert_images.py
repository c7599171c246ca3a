"""The action convert: which image belongs to an annotation, and that originals stay."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import annotation_files
import numpy as np
import pytest
from annotation_files import DENT, SIZE, labelme_record, labelme_shape, outline, write
from image_files import encode, noise, save
from PIL import Image

from segzoo.data.annotations.output_folders import new_conversion
from segzoo.registry import ACTIONS, ConfigError
from segzoo.types import DataError


def convert(tmp_path: Path, out: str = "out", source: str = "mine", **settings):
    return ACTIONS.build("convert", {}, tmp_path / out, source=str(tmp_path / source), **{"format": "labelme"} | settings)


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def record(tmp_path: Path, name: str, image: np.ndarray | None = None, **changed) -> None:
    data = None if image is None else base64.b64encode(encode(image, "PNG")).decode()
    write(tmp_path / name, labelme_record(labelme_shape("dent", outline(DENT)), imageData=data, **changed))


def test_a_mask_with_the_name_of_a_labelme_file_is_not_its_image(tmp_path):
    image = noise(*SIZE)
    record(tmp_path, "mine/json/a.json", image, imagePath="a.jpg")
    save(tmp_path / "mine/SegmentationClass/a.png", np.zeros(SIZE, np.uint8))
    report = convert(tmp_path, unlabeled="background")
    np.testing.assert_array_equal(pixels(tmp_path / "out/images/json/a.png"), image)
    assert report.result["images"]["written"] == 1  # and the mask is no image without labels


def test_an_image_of_another_folder_does_not_replace_the_embedded_one(tmp_path):
    image = noise(*SIZE)
    record(tmp_path, "mine/cam1/0000.json", image, imagePath="..\\cam1\\0000.png")
    save(tmp_path / "mine/cam2/0000.png", noise(*SIZE, 1))
    convert(tmp_path)
    (written,) = (tmp_path / "out/images").rglob("*.png")
    np.testing.assert_array_equal(pixels(written), image)


def test_the_file_of_an_embedded_image_is_used_and_gives_the_name(tmp_path):
    image = noise(*SIZE)
    record(tmp_path, "mine/json/a.json", image, imagePath="a.png")
    for folder, pixels_of in (("cam2", noise(*SIZE, 1)), ("cam1", image)):
        save(tmp_path / f"mine/{folder}/a.png", pixels_of)
    convert(tmp_path)
    assert [path.relative_to(tmp_path / "out/images").as_posix() for path in (tmp_path / "out/images").rglob("*.png")] == [
        "cam1/a.png"
    ]


def test_a_pair_that_was_renamed_together_stays_a_pair(tmp_path):
    """Its ``imagePath`` names the image of another pair now."""
    photos = [noise(*SIZE, number) for number in range(2)]
    for number in range(2):
        save(tmp_path / f"mine/img_{number}.png", photos[number])
        record(tmp_path, f"mine/img_{number}.json", photos[number], imagePath=f"img_{number + 1}.png")
    convert(tmp_path)
    for number in range(2):
        np.testing.assert_array_equal(pixels(tmp_path / f"out/images/img_{number}.png"), photos[number])


def test_the_path_in_the_file_comes_before_a_mask_next_to_it(tmp_path):
    photo = noise(*SIZE)
    save(tmp_path / "mine/images/a.jpg", photo)
    save(tmp_path / "mine/labels/a.png", np.zeros(SIZE, np.uint8))
    record(tmp_path, "mine/labels/a.json", imagePath="../images/a.jpg")
    report = convert(tmp_path, unlabeled="background")
    assert [path.name for path in (tmp_path / "out/images").rglob("*.*") if path.name != ".converted"] == ["a.jpg"]
    assert report.result["images"]["written"] == 1


def test_similar_images_of_one_name_are_told_apart_or_not_used(tmp_path):
    photo = noise(*SIZE)
    for day in (1, 2):
        save(tmp_path / f"mine/day{day}/a.png", np.clip(photo.astype(int) + day, 0, 255).astype(np.uint8))
    record(tmp_path, "mine/json/a.json", photo, imagePath="a.png")
    convert(tmp_path)
    (written,) = (tmp_path / "out/images").rglob("*.png")
    np.testing.assert_array_equal(pixels(written), photo)  # the embedded one


def test_an_image_of_another_name_is_noted(tmp_path):
    record(tmp_path, "mine/json/a.json", imagePath="a.jpg")
    save(tmp_path / "mine/pics/a.png", noise(*SIZE))
    (note,) = [note for note in convert(tmp_path).result["notes"] if "names the image" in note]
    assert "'a.jpg'" in note and "pics/a.png" in note


def test_the_name_in_the_file_chooses_between_two_images(tmp_path):
    for ending in ("png", "bmp"):
        save(tmp_path / f"mine/a.{ending}", noise(*SIZE))
    record(tmp_path, "mine/a.json", imagePath="a.png")
    report = convert(tmp_path, unlabeled="background")
    assert [path.name for path in (tmp_path / "out/images").glob("a.*")] == ["a.png"] and not report.errors
    record(tmp_path, "mine/a.json", imagePath="b.png")
    with pytest.raises(Exception, match="2 images are called 'a'"):
        convert(tmp_path)


def test_an_image_whose_file_is_damaged_does_not_become_background(tmp_path):
    for stem in ("a", "b", "c"):
        save(tmp_path / f"mine/{stem}.png", noise(*SIZE))
        record(tmp_path, f"mine/{stem}.json", imagePath=f"{stem}.png")
    (tmp_path / "mine/b.json").write_text('{"shapes": [')
    report = convert(tmp_path, unlabeled="background")
    assert sorted(path.name for path in (tmp_path / "out/images").glob("*.png")) == ["a.png", "c.png"]
    assert len(report.errors) == 1 and "b.json" in report.errors[0]
    convert(tmp_path, out="one", source="mine/a.json", unlabeled="background")  # b and c have files of their own
    assert [path.name for path in (tmp_path / "one/images").glob("*.png")] == ["a.png"]


def test_a_folder_above_the_source_is_no_split(tmp_path):
    for stem in ("a", "b"):
        save(tmp_path / f"validation/set/{stem}.png", noise(*SIZE))
    record(tmp_path, "validation/set/a.json", imagePath="a.png")
    report = convert(tmp_path, source="validation/set", unlabeled="background")
    assert report.result["splits"] == {} and report.result["images"]["written"] == 2


def test_images_that_are_to_be_converted_are_never_removed(tmp_path):
    annotation_files.coco(tmp_path / "mine")
    convert(tmp_path, format="coco")
    export, images = tmp_path / "export", tmp_path / "out/images"
    (tmp_path / "mine/annotations").rename(export)
    before = sorted(images.rglob("*"))
    with pytest.raises(ConfigError, match="lies in action.image_root=.*/images, or contains it"):
        convert(tmp_path, source="export", format="coco", image_root=str(images))
    (tmp_path / "link").symlink_to(images, target_is_directory=True)
    images_of_link = (tmp_path / "link").rglob("*.png")
    with (
        pytest.raises(ConfigError, match="would be replaced, but .* in it is to be converted"),
        new_conversion(tmp_path / "out", images_of_link),
    ):
        pass
    assert sorted(images.rglob("*")) == before


def test_a_conversion_stays_until_a_new_one_is_complete(tmp_path):
    save(tmp_path / "mine/a.png", noise(*SIZE))
    record(tmp_path, "mine/a.json", imagePath="a.png")
    convert(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "out/.converting/new/images").mkdir(parents=True)  # of a process that was killed
    (tmp_path / "mine/a.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match="no image could be converted"):
        convert(tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert not (tmp_path / "out/.converting").exists()
    (tmp_path / "mine/a.png").unlink()
    (tmp_path / "mine/a.json").unlink()
    save(tmp_path / "mine/b.png", noise(*SIZE))
    record(tmp_path, "mine/b.json", imagePath="b.png")
    convert(tmp_path)
    assert [path.name for path in (tmp_path / "out/images").glob("*.png")] == ["b.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["conf", "images", "labels"]


def test_a_conversion_is_repeated_beside_its_results(tmp_path):
    annotation_files.coco(tmp_path / "mine")
    first = convert(tmp_path, out="mine/runs/first", source="mine/annotations/instances_train2017.json", format="coco")
    again = convert(tmp_path, out="mine/runs/second", source="mine/annotations/instances_train2017.json", format="coco")
    assert not again.errors and again.result["images"] == first.result["images"]


@pytest.mark.parametrize("root", ["relative", "link"])
def test_two_spellings_of_a_folder_hold_each_image_once(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    annotation_files.labelme(tmp_path / "mine")
    (tmp_path / "link").symlink_to("mine/pics", target_is_directory=True)
    image_root = str(tmp_path / "mine/pics") if root == "relative" else "link"
    out = ACTIONS.build(
        "convert", {}, tmp_path / "out", format="labelme", source="mine", image_root=image_root, unlabeled="background"
    )
    assert not out.errors and out.result["images"]["written"] == 3


def test_masks_of_voc_are_no_images(tmp_path):
    settings = annotation_files.voc(tmp_path / "mine")
    folder = tmp_path / "mine/VOCdevkit/VOC2012"
    (folder / "JPEGImages").rename(tmp_path / "photos")
    shutil.copytree(folder / "SegmentationClass", folder / "SegmentationObject")
    report = convert(tmp_path, **settings, image_root=str(tmp_path / "photos"))
    assert not report.errors and report.result["images"]["written"] == 3


def test_lists_of_voc_can_be_replaced(tmp_path):
    settings = annotation_files.voc(tmp_path / "mine")
    (tmp_path / "mine/my_train.txt").write_text("c\n")
    (tmp_path / "mine/my_val.txt").write_text("a\nb\n")
    assert convert(tmp_path, **settings).result["splits"] == {"train": 2, "val": 1}
    assert convert(tmp_path, out="other", **settings, lists="my_{split}.txt").result["splits"] == {"train": 1, "val": 2}
    assert convert(tmp_path, out="none", **settings, lists=None).result["splits"] == {}


def test_names_with_dots_stay_whole(tmp_path):
    for stem in ("shaft 1.5 mm", "shaft 2.5 mm"):
        record(tmp_path, f"mine/{stem}.json", noise(*SIZE), imagePath="")
    (tmp_path / "mine/train.txt").write_text("shaft 1.5 mm\n")
    (tmp_path / "mine/val.txt").write_text("shaft 2.5 mm\n")
    report = convert(tmp_path)
    assert report.result["splits"] == {"train": 1, "val": 1}
    assert (tmp_path / "out/labels/shaft 1.5 mm.png").is_file()


def test_no_two_images_get_the_same_name(tmp_path):
    for name in ("x.jpg", "x.png", "x_png.jpg"):
        save(tmp_path / "mine" / name, noise(*SIZE))
    report = convert(tmp_path, format="labelme", unlabeled="background", classes=("background", "dent"))
    masks = sorted(path.name for path in (tmp_path / "out/labels").glob("*.png"))
    assert report.result["images"]["written"] == 3 and masks == ["x_jpg.png", "x_png.png", "x_png_2.png"]


def test_words_to_leave_out_that_occur_nowhere_are_noted(tmp_path):
    annotation_files.labelme(tmp_path / "mine")
    notes = convert(tmp_path, skip_shapes=("points",), ignore_flags=("dificult",)).result["notes"]
    assert "action.skip_shapes: 'points' occurs nowhere; found: polygon, rectangle." in notes
    assert "action.ignore_flags: 'dificult' occurs nowhere; found: none." in notes
