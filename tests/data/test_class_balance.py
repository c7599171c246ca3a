"""Counts of labels and class weights, compared with their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from image_files import save

from segzoo.data.balance.class_counts import count_classes
from segzoo.data.balance.class_weights import automatic_class_weights, effective_number, inverse_sqrt, median_frequency
from segzoo.data.checks import check
from segzoo.registry import DATA
from segzoo.types import DataError

COUNTS = arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.sampled_from([0, 0, 1, 7, 500, 10**6]))


def make_folder(root: Path, labels: list[np.ndarray], **options):
    """Data set of index masks, one for each array."""
    for index, label in enumerate(labels):
        save(root / f"images/{index}.png", np.zeros((*label.shape, 3), np.uint8))
        save(root / f"labels/{index}.png", label)
    options = {"classes": tuple("wxyz"), "images": "images/{stem}.png", "labels": "labels/{stem}.png", **options}
    return DATA.build("folder", "all", root=str(root), **options)


def test_counts_equal_those_of_the_labels_that_are_read(tmp_path):
    rng = np.random.default_rng(0)
    raw = [rng.choice([0, 1, 2, 3, 9], (5, 4 + index)).astype(np.uint8) for index in range(3)]
    dataset = make_folder(tmp_path, raw, label_map={0: 0, 1: 2, 2: 2, 3: 3, 9: 255})
    for data in (dataset, DATA.build("parts", "train", height=64, width=64, train_images=3)):
        expected = [[(data[index].label == train_id).sum() for train_id in range(data.info.num_classes)] for index in range(3)]
        assert count_classes(data).tolist() == expected


def test_invalid_labels_are_all_named(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "WHOLE_SET", 0)  # the counts are complete even where the check reads a sample
    monkeypatch.setattr(check, "SAMPLE_SECONDS", -1.0)
    dataset = make_folder(tmp_path, [np.zeros((3, 3), np.uint8), np.full((3, 3), 7, np.uint8)])
    (tmp_path / "images/0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)2 errors in the data:.*0\.png: is empty.*1\.png: holds the values 7"):
        count_classes(dataset)


def test_median_frequency_of_an_example():
    counts = np.array([[80, 20, 0, 0], [100, 0, 0, 0], [50, 40, 10, 0]])
    frequencies = 230 / 300, 60 / 200, 10 / 100  # of the pixels of images that contain the class
    assert median_frequency(counts).tolist() == pytest.approx([0.3 / f for f in frequencies] + [1])
    assert automatic_class_weights(counts) == (0.3913, 1.0, 3.0, 1.0)


def test_square_roots_of_both_definitions_agree_where_every_image_has_every_class():
    counts = np.array([[400, 100], [400, 100]])
    assert (median_frequency(counts) ** 0.5 / inverse_sqrt(counts)).std() == pytest.approx(0)


def test_effective_number_equals_its_paper():
    images = np.array([5000, 50, 1])
    counts = (np.arange(5000)[:, None] < images).astype(np.int64) * 9
    for beta in (0.0, 0.9, 0.999):
        weights = (1 - beta) / (1 - beta**images)
        assert effective_number(counts, beta) == pytest.approx(weights / weights.sum() * 3)  # normalized to the number of classes
    assert effective_number(counts, 0.0).tolist() == [1, 1, 1]


@given(COUNTS)
@settings(max_examples=60, deadline=None)
def test_rarer_classes_never_weigh_less(counts):
    pixels, images = counts.sum(0), (counts > 0).sum(0)
    found = pixels > 0
    for function, amount in ((median_frequency, None), (inverse_sqrt, pixels), (effective_number, images)):
        weights = function(counts)
        assert weights.shape == pixels.shape and np.isfinite(weights).all() and (weights > 0).all()
        assert (weights[~found] == 1).all()
        if amount is not None and found.any():
            order = np.argsort(amount[found], kind="stable")
            assert (np.diff(weights[found][order]) <= 1e-9).all() and weights[found].mean() == pytest.approx(1)
    assert np.allclose(median_frequency(counts * 3), median_frequency(counts))
    assert all(0 < weight <= 1e6 for weight in automatic_class_weights(counts))
