"""Statistics of a data set, compared with direct computations on all pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from image_files import noise, save
from scipy import ndimage

from segzoo.data.balance.class_counts import count_classes
from segzoo.data.inspection.blobs import class_blobs
from segzoo.data.statistics.channels import channel_histogram, mean_and_std
from segzoo.data.statistics.measure import measure_split
from segzoo.registry import DATA
from segzoo.types import DataError, DatasetInfo

LABELS = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 2, 255]))


def numbered_classes(count: int) -> DatasetInfo:
    return DatasetInfo("numbered", tuple(f"c{k}" for k in range(count)), ((0, 0, 0),) * count)


def reference_sizes(mask: np.ndarray) -> list[int]:
    numbered = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, np.ones((3, 3)), output=numbered)
    return np.bincount(numbered.ravel())[1:].tolist()


@given(LABELS)
@settings(max_examples=60, deadline=None)
def test_blobs_equal_those_of_scipy(label):
    blobs = dict(class_blobs(label, numbered_classes(3)))
    assert blobs.keys() == set(np.unique(label).tolist()) - {255}
    for train_id, found in blobs.items():
        assert sorted(found.areas) == sorted(reference_sizes(label == train_id))


def test_blobs_of_more_than_255_classes():
    label = np.array([[300, 0, 300], [0, 0, 255]], np.uint16)
    areas = {train_id: blobs.areas.tolist() for train_id, blobs in class_blobs(label, numbered_classes(301))}
    assert areas == {0: [3], 300: [1, 1]}


def test_mean_and_std_equal_those_of_all_pixels():
    images = [noise(9, 13, 1), noise(20, 5, 2) // 3, np.full((4, 4, 3), 255, np.uint8)]
    mean, std = mean_and_std(np.sum([channel_histogram(image) for image in images], axis=0))
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-14)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-12)


def test_mean_and_std_of_more_pixels_than_a_float_counts():
    histogram = np.zeros((1, 256), np.int64)
    histogram[0, 100], histogram[0, 101] = 10**17, 10**17
    assert mean_and_std(histogram) == ([100.5], [0.5])
    histogram[0, 101] = 0
    assert mean_and_std(histogram) == ([100.0], [0.0])


@pytest.fixture
def dataset(tmp_path):
    random = np.random.default_rng(0)
    for index, (height, width) in enumerate([(10, 20), (10, 20), (16, 8)]):
        save(tmp_path / f"i/{index}.png", noise(height, width, index))
        save(tmp_path / f"l/{index}.png", random.choice([0, 1, 2, 255], (height, width), p=[0.7, 0.2, 0, 0.1]).astype(np.uint8))
    return DATA.build("folder", "all", root=str(tmp_path), classes=("a", "b", "c"), images="i/{stem}.png", labels="l/{stem}.png")


def test_a_split_is_measured_completely(dataset):
    measured = measure_split("all", dataset)
    samples = [dataset[index] for index in range(3)]
    labels = np.concatenate([sample.label.ravel() for sample in samples])
    pixels = np.concatenate([sample.image.reshape(-1, 3) for sample in samples])
    assert measured.num_images == 3 and measured.sizes == {(10, 20): 2, (16, 8): 1}
    assert measured.ignored_pixels == (labels == 255).sum() > 0
    assert measured.class_fractions == pytest.approx([(labels == index).sum() / (labels != 255).sum() for index in range(3)])
    assert measured.class_images.tolist() == [3, 3, 0] and (measured.class_counts == count_classes(dataset)).all()
    for index, name in enumerate("abc"):
        blobs = sorted(size for sample in samples for size in reference_sizes(sample.label == index))
        assert measured.blobs[name].tolist() == blobs and measured.blobs[name].sum() == (labels == index).sum()
    np.testing.assert_allclose(measured.mean_and_std(), (pixels.mean(0), pixels.std(0)))


def test_a_rendered_data_set_is_measured():
    data = DATA.build("parts", "train", height=64, width=64, train_images=3)
    measured = measure_split("train", data)
    assert measured.ignored_pixels == 0 and sum(map(np.sum, measured.blobs.values())) == 3 * 64 * 64


def test_invalid_label_files_are_all_named(dataset, tmp_path):
    for index in (0, 2):
        (tmp_path / f"l/{index}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"l/0\.png: is empty.*same in 1 more place"):
        measure_split("all", dataset)
