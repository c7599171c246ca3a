"""Decoded samples kept in memory and on disk."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from image_files import build_folder, make_pairs, noise, save

from segzoo.data.cache import disk, memory
from segzoo.data.loader import train_batches
from segzoo.transforms.augment import standard
from segzoo.types import DataError

PATTERNS = {"images": "{split}/{stem}.png", "labels": "{split}_masks/{stem}.png"}


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_pairs(tmp_path / "my", "train/{stem}.png", "train_masks/{stem}.png")
    return tmp_path / "my"


def build(root: Path, mode: str, **options):
    return build_folder(root, cache=mode, **PATTERNS, **options)


def cache_files(root: Path) -> list[Path]:
    return sorted((root.parent / "cache").rglob("*.bin"))


def assert_same_samples(actual, expected):
    assert len(actual) == len(expected)
    for index in range(len(expected)):
        assert actual[index].name == expected[index].name
        for array, other in zip(actual[index][:2], expected[index][:2], strict=True):
            assert array.dtype == other.dtype
            np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("mode", ["ram", "disk"])
def test_cached_samples_equal_decoded_ones(root, mode):
    cached = build(root, mode)
    cached.load()
    for _ in range(2):  # the second time from the cache
        assert_same_samples(cached, build(root, "none"))


@pytest.mark.parametrize("mode", ["ram", "disk", "none"])
def test_a_missing_image_is_reported_by_every_cache(root, mode):
    data = build(root, mode)
    path = data.scan()[1].image
    path.unlink()
    with pytest.raises(DataError, match=f"{path.name}: cannot be read: No such file"):
        data[1]


def test_files_are_decoded_once_for_all_processes(root, monkeypatch):
    assert_same_samples(build(root, "disk"), build(root, "none"))
    monkeypatch.setattr("segzoo.data.paired_dataset.read_pixels", lambda path, form: pytest.fail(f"decoded {path} again"))
    build(root, "disk")[0]
    pickle.loads(pickle.dumps(build(root, "disk")))[1]  # as in a worker that is not forked
    assert len(cache_files(root)) == 3


def test_memory_is_filled_before_the_workers_start(root):
    dataset = build(root, "ram")
    stream = train_batches(dataset, None, batch_size=3, workers=0, seed=0)
    for path in (root / "train").iterdir():
        path.unlink()
    assert sorted(next(stream).names) == ["a", "b", "c"]


@pytest.mark.parametrize("change", ["image", "label", "settings"])
def test_changed_files_and_settings_are_decoded_again(root, change):
    build(root, "disk")[0]
    options = {}
    if change == "settings":
        options = {"label_map": {0: 2, 1: 1, 2: 0}}
    else:
        folder = "train" if change == "image" else "train_masks"
        save(root / folder / "a.png", noise(6, 8, 99) if change == "image" else np.zeros((6, 8), np.uint8))
    cached = build(root, "disk", **options)
    np.testing.assert_array_equal(cached[0].image, build(root, "none", **options)[0].image)
    np.testing.assert_array_equal(cached[0].label, build(root, "none", **options)[0].label)
    assert len(cache_files(root)) == 2


@pytest.mark.parametrize("damage", ["flipped", "truncated", "extended", "empty", "other"])
def test_a_damaged_file_is_written_again(root, damage):
    build(root, "disk")[0]
    (path,) = cache_files(root)
    content = path.read_bytes()
    flipped = content[:40] + bytes([content[40] ^ 1]) + content[41:]
    damaged = {"flipped": flipped, "truncated": content[:-1], "extended": content + b"x", "empty": b"", "other": b"x" * 300}
    path.write_bytes(damaged[damage])
    sample = build(root, "disk")[0]
    np.testing.assert_array_equal(sample.image, build(root, "none")[0].image)
    assert path.read_bytes() == content


def test_a_changed_sample_does_not_change_the_cache(root):
    build(root, "disk")[0]
    sample = build(root, "disk")[0]
    for array in sample[:2]:
        assert array.flags["WRITEABLE"]  # torch warns of others
        array += 1
    assert_same_samples(build(root, "disk"), build(root, "none"))


def test_16_bit_labels_are_kept(root):
    classes = tuple("ignore" if index == 255 else f"c{index}" for index in range(300))
    save(root / "train_masks/a.png", np.full((6, 8), 299, np.uint16))
    cached = build(root, "disk", classes=classes)
    for _ in range(2):
        assert cached[0].label.dtype == np.uint16 and (cached[0].label == 299).all()


def test_augmentation_reads_a_mapped_sample_like_any_other(root):
    cached, decoded = build(root, "disk"), build(root, "none")
    augment = standard(decoded.info, crop=(5, 7), rotate=20.0, color_jitter=0.2)
    cached[0]
    for seed in range(5):
        np.testing.assert_array_equal(augment(cached[0], seed).image, augment(decoded[0], seed).image)


def test_a_cache_that_cannot_be_written_is_an_error(root, monkeypatch):
    def full(path, write, durable):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(disk, "write_atomically", full)
    with pytest.raises(DataError, match=r"data\.cache=disk.*No space left.*data\.cache=none"):
        build(root, "disk")[0]


def test_entries_that_cannot_be_read_are_made_again(root, monkeypatch):
    def denied(path, mode):
        raise PermissionError(13, "Permission denied", str(path))  # another user's, in a shared XDG_CACHE_HOME

    expected = build(root, "disk")[0]
    (file,) = cache_files(root)
    before = file.stat().st_ino
    monkeypatch.setattr(disk, "open", denied, raising=False)
    np.testing.assert_array_equal(build(root, "disk")[0].image, expected.image)
    assert file.stat().st_ino != before


def test_images_that_exceed_the_memory_are_rejected(root, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda processes: 2100 // processes)
    build(root, "ram").load()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")  # three ranks read three copies
    with pytest.raises(DataError, match=r"data\.cache=ram needs .* for 3 decoded images.*data\.cache=disk"):
        build(root, "ram").load()
