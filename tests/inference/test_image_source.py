"""Images that predict finds, and the names of its results."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import noise, save
from predictions import predict_source
from toy_training import INFO, Toy

from segzoo.data.image_io import read_image
from segzoo.inference.outputs import result_files
from segzoo.inference.pipeline import helper_threads
from segzoo.inference.sources.image_files import find_images
from segzoo.registry import ConfigError
from segzoo.types import DataError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def names(source: Path | str, out: Path) -> list[str]:
    return [item.name for item in find_images(str(source), out).items]


def predict(source: Path, out: Path, **options):
    torch.manual_seed(0)
    return predict_source(Toy(), INFO, out, source, **options)


@pytest.mark.parametrize(
    "files",
    [
        ("a.jpg", "a.png", "a.jpg.png"),
        ("a.png", "a.png.png", "a.png.png.png"),
        ("b", "x/b.png", "b.png"),
        ("a.b.png", "a.png", "a.b.jpg"),
    ],
)
def test_names_are_unique_whatever_the_files_are_called(tmp_path, files):
    images = [name for name in files if "." in name]
    found = names(touch(tmp_path / "source", *files), tmp_path / "out")
    assert len(set(found)) == len(found) == len(images)


def test_as_many_results_as_images(tmp_path):
    for name in ("a.jpg", "a.png", "a.jpg.png"):
        save(tmp_path / "source" / name, noise())
    assert predict(tmp_path / "source", tmp_path / "out")["images"] == 3
    assert len(list((tmp_path / "out/labels").iterdir())) == len(list((tmp_path / "out/overlays").iterdir())) == 3


def test_linked_folders_are_followed_once_and_loops_are_not(tmp_path):
    source = touch(tmp_path / "source", "own.jpg", "sub/deep.jpg")
    touch(tmp_path / "elsewhere", "x.jpg", "y.jpg")
    (source / "cam1").symlink_to(tmp_path / "elsewhere")
    (source / "sub/loop").symlink_to(source)
    (tmp_path / "elsewhere/back").symlink_to(source)
    expected = ["cam1/x", "cam1/y", "own", "sub/deep"]
    assert names(source, tmp_path / "out") == expected
    assert names(f"{source}/**/*.jpg", tmp_path / "out") == expected


def test_hidden_files_are_left_out(tmp_path):
    source = touch(tmp_path / "source", "a.jpg", "._a.jpg", ".Trash/b.jpg", "c/.d.png")
    assert names(source, tmp_path / "out") == names(f"{source}/**/*", tmp_path / "out") == ["a"]


@pytest.mark.parametrize("below", [True, False])
def test_out_may_lie_below_or_above_the_source(tmp_path, below):
    source = touch(tmp_path / "project/images", "a.png", "sub/b.png")
    out = source / "out" if below else tmp_path / "project"
    touch(out, "config.yaml", "labels/old.png", "overlays/old.jpg")
    searched = source if below else out
    found = find_images(str(searched), out)
    assert [Path(item.origin).name for item in found.items] == ["a.png", "b.png"]
    assert len(found.skipped) == 1 and found.skipped[0].startswith(f"2 files in {out}/labels and {out}/overlays were left out")
    assert names(source, out) == ["a", "sub/b"]


def test_results_of_earlier_runs_are_no_images(tmp_path):
    results = (
        "old/images.csv",
        "old/labels/a.png",
        "old/overlays/sub/a.png",
        "train/checkpoints/5/manifest.json",
        "train/vis/val.png",
    )
    photos = ("a.png", "labels/b.png", "vis/c.png", "failed/run.lock", "failed/labels/d.png")  # also in folders of these names
    touch(tmp_path, *results, *photos)
    found = find_images(str(tmp_path), tmp_path / "out")
    assert [item.name for item in found.items] == ["a", "failed/labels/d", "labels/b", "vis/c"]
    assert f"3 files in {tmp_path}/old, {tmp_path}/train were left out: they are results of earlier runs." in found.skipped
    assert names(f"{tmp_path}/o*/labels/*.png", tmp_path / "out") == ["old/labels/a"]  # as asked for
    assert names(tmp_path / "old/labels", tmp_path / "out") == ["a"]
    with pytest.raises(ConfigError, match="contains no image.* 2 files in .*old were left out: they are results of earlier runs"):
        find_images(str(tmp_path / "old"), tmp_path / "out")


def test_out_may_be_the_source(tmp_path):
    save(tmp_path / "a.png", noise())
    assert predict(tmp_path, tmp_path)["images"] == 1
    assert (tmp_path / "labels/a.png").is_file() and np.array_equal(noise(), np.asarray(read_image(tmp_path / "a.png")))


def test_labels_of_the_data_set_are_not_overwritten(tmp_path):
    touch(tmp_path, "images/a.png", "labels/a.png")
    with pytest.raises(ConfigError, match=r"out=.*: 1 label maps would overwrite files, such as .*labels/a\.png\. Set another out"):
        find_images(str(tmp_path / "images"), tmp_path)
    [item] = find_images(str(tmp_path / "images"), tmp_path, resumed=True).items
    assert (item.name, item.origin) == ("a", str(tmp_path / "images/a.png"))
    with pytest.raises(ConfigError, match="contains no image.* 1 files in .*results are written there"):
        find_images(str(tmp_path / "labels"), tmp_path)


@pytest.mark.parametrize("pattern", ["[2024] cam/*.png", "*/b*.png", "[[]2024] cam/[ab].png", "[2024] cam/**"])
def test_brackets_in_folders_that_exist_are_literal(tmp_path, pattern):
    touch(tmp_path, "[2024] cam/a.png", "[2024] cam/b.png", "2/z.png")
    folder = "" if pattern.startswith("[2024]") else "[2024] cam/"  # names are below the part that exists as it is written
    expected = ["b"] if pattern.startswith("*") else ["a", "b"]
    assert names(tmp_path / pattern, tmp_path / "out") == [f"{folder}{name}" for name in expected]


def test_brackets_that_match_nothing_are_explained(tmp_path):
    touch(tmp_path, "cam1/[a] 1.png")
    with pytest.raises(ConfigError, match=r"matches no image.*write \[\[\] for the bracket"):
        find_images(f"{tmp_path}/*/[a] ?.png", tmp_path / "out")


def test_files_left_out_for_their_ending_are_counted_even_after_an_error(tmp_path):
    save(tmp_path / "source/a.png", noise())
    touch(tmp_path / "source", "b.txt", "c.txt", "d.mp4", "README")
    sentence = "4 files were left out for their ending (2 .txt, 1 .mp4, 1 none)."
    assert predict(tmp_path / "source", tmp_path / "out")["skipped"] == [sentence]
    touch(tmp_path / "source", "broken.png")
    with pytest.raises(DataError, match=r"1 of 2 images .*\n.*broken\.png: is empty(?s:.*)4 files were left out for their ending"):
        predict(tmp_path / "source", tmp_path / "out2")
    with pytest.raises(ConfigError, match=r"contains no image.*1 files were left out for their ending"):
        find_images(str(touch(tmp_path / "texts", "a.txt")), tmp_path / "out")


def test_a_name_too_long_for_its_results_stops_no_other_image(tmp_path):
    for name in ("0" * 247 + ".jpg", "1" * 251 + ".png", "背" * 83 + ".png", "ok.jpg", "0" * 251 + ".jpg"):
        save(tmp_path / "source" / name, noise())
    (tmp_path / "source/0.jpg").write_bytes((tmp_path / "source/ok.jpg").read_bytes())
    assert predict(tmp_path / "source", tmp_path / "out")["images"] == 6
    save(tmp_path / "source" / ("0" * 251 + ".png"), noise())  # both get their suffix, and a result's own: 259 bytes
    with pytest.raises(DataError, match=r"2 of 7 images could not be labeled \(5 are done\)(?s:.*)File name too long"):
        predict(tmp_path / "source", tmp_path / "out2")
    assert (tmp_path / "out2/labels/ok.png").is_file() and not list((tmp_path / "out2").rglob("*.tmp.*"))


def test_a_full_disk_stops_at_once(tmp_path, monkeypatch):
    for number in range(4 * helper_threads()):
        save(tmp_path / f"source/{number:03d}.png", noise())
    written = []

    def full(path, label, info):
        written.append(path)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(result_files, "write_labels", full)
    with pytest.raises(OSError, match="No space left"):
        predict(tmp_path / "source", tmp_path / "out")
    assert 1 <= len(written) <= helper_threads(), "only what was already being written"


def test_results_are_renamed_into_place_without_fsync(tmp_path, monkeypatch):
    save(tmp_path / "source/a.png", noise())
    replaced, real = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("a label map can be made again"))
    monkeypatch.setattr(os, "replace", lambda old, new: (replaced.append(Path(new).name), real(old, new)))
    predict(tmp_path / "source", tmp_path / "out", overlays="jpg")
    assert sorted(replaced) == ["a.jpg", "a.png", "images.csv"]


def test_masks_of_a_conversion_are_left_out(tmp_path):
    touch(tmp_path / "converted", "images/a.png", "labels/a.png", "conf/data/mine.yaml", "dataset.json")
    touch(tmp_path, "labels/b.png")
    found = find_images(str(tmp_path), tmp_path / "out")
    assert [item.name for item in found.items] == ["converted/images/a", "labels/b"]
    assert any(note.startswith("1 files in") and note.endswith("they are masks of a conversion.") for note in found.skipped)
    assert names(tmp_path / "converted", tmp_path / "out") == ["images/a"]
    assert names(tmp_path / "converted/labels", tmp_path / "out") == ["a"]
