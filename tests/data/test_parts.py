"""The synthetic data set: reproducibility, labels and class frequencies."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzoo.data.datasets.parts import PartsDataset, parts
from segzoo.data.synthetic.scene import BELT, DENT, SCRATCH, Scene, render_scene
from segzoo.data.synthetic.shapes import KINDS
from segzoo.registry import DATA, ConfigError

PRINT_DIGEST = """
import hashlib
from segzoo.data.datasets.parts import parts
digest = hashlib.sha256()
data = parts("train")
for index in range(30):
    digest.update(data.scene(index).gray.tobytes() + data.scene(index).label.tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def train() -> PartsDataset:
    return parts("train")


@pytest.fixture(scope="module")
def scenes(train: PartsDataset) -> list[Scene]:
    """The first forty images and then every eighth: 75 of 320."""
    return [train.scene(index) for index in [*range(40), *range(40, len(train), 8)]]


def digest(sample: Any) -> str:
    return hashlib.sha256(sample.image.tobytes() + sample.label.tobytes()).hexdigest()


def digest_in_subprocess(**environment: str) -> str:
    done = subprocess.run([sys.executable, "-c", PRINT_DIGEST], env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.integration
def test_images_are_equal_in_every_process_and_on_every_vector_unit(scenes: list[Scene]):
    """Compare thirty images bit for bit.

    NumPy's sine and exponential depend on the vector unit, so the renderer must not use them.
    """
    dispatched = " ".join(getattr(np._core._multiarray_umath, "__cpu_dispatch__", []))  # type: ignore[attr-defined]
    expected = hashlib.sha256()
    for scene in scenes[:30]:
        expected.update(scene.gray.tobytes() + scene.label.tobytes())
    assert digest_in_subprocess() == expected.hexdigest()
    assert digest_in_subprocess(NPY_DISABLE_CPU_FEATURES=dispatched) == expected.hexdigest()


def test_an_image_depends_only_on_seed_split_and_index(train: PartsDataset):
    first = digest(train[3])
    assert digest(train[3]) == first
    assert digest(parts("train", cache=False, train_images=4)[3]) == first
    assert digest(pickle.loads(pickle.dumps(train))[3]) == first
    others = [train[4], parts("val")[3], parts("train", seed=1)[3]]
    assert len({first, *map(digest, others)}) == 4


def test_forked_processes_share_rendered_images(monkeypatch):
    data = parts("train", height=64, width=64, train_images=3)
    child = os.fork()
    if child == 0:
        data.scene(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    expected = digest(parts("train", height=64, width=64, train_images=3, cache=False)[1])
    monkeypatch.delattr("segzoo.data.datasets.parts.render_scene")
    assert digest(data[1]) == expected
    with pytest.raises(NameError):
        data.scene(0)
    with pytest.raises(ConfigError, match=r"data.cache=true: 10,000,000 rendered images .* Set data.cache=false"):
        parts("train", height=4096, width=4096, train_images=10**7)


def test_splits_share_no_image():
    both = [parts(split, height=64, width=96) for split in ("train", "val")]
    seen = {digest(data[index]) for data in both for index in range(40)}
    assert len(seen) == 80


def test_samples_are_gray_rgb_copies(train: PartsDataset):
    sample = train[0]
    assert sample.image.shape == (256, 320, 3) and sample.image.dtype == np.uint8
    assert sample.label.shape == (256, 320) and sample.label.dtype == np.uint8
    assert (sample.image == sample.image[..., :1]).all()
    assert sample.name == train.name(0) == "train_00000"
    sample.image[:], sample.label[:] = 0, 255
    assert train[0].image.any() and (train[0].label < 255).all()
    with pytest.raises(IndexError, match="320"):
        train[320]
    with pytest.raises(IndexError, match="numbered from 0"):
        train[-1]


def test_class_frequencies(train: PartsDataset, scenes: list[Scene]):
    labels = np.stack([scene.label for scene in scenes])
    classes = train.info.num_classes
    assert set(np.unique(labels[:40])) == set(np.unique(labels)) == set(range(classes))
    fraction = np.bincount(labels.ravel(), minlength=classes) / labels.size
    assert 0.6 < fraction[BELT] < 0.8
    assert all(0.03 < part < 0.09 for part in fraction[1:SCRATCH])
    assert all(0.01 < defect < 0.05 for defect in fraction[[SCRATCH, DENT]])


def test_dataset_info_has_the_statistics_of_the_training_split(train: PartsDataset, scenes: list[Scene]):
    gray = np.stack([scene.gray for scene in scenes])
    assert train.info.mean == pytest.approx((gray.mean(),) * 3, abs=3)
    assert train.info.std == pytest.approx((gray.std(),) * 3, abs=3)
    assert len(train.info.classes) == len(set(train.info.palette)) == 8
    assert train.info.classes[SCRATCH] == "scratch" and train.info.classes[DENT] == "dent"
    assert train.info.classes[1:SCRATCH] == tuple(kind.draw.__name__ for kind in KINDS)


@pytest.mark.slow
def test_dataset_info_has_the_exact_statistics(train: PartsDataset):
    gray = np.stack([train.scene(index).gray for index in range(len(train))])
    assert train.info.mean == pytest.approx((gray.mean(),) * 3, abs=0.06)
    assert train.info.std == pytest.approx((gray.std(),) * 3, abs=0.06)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(64, 300),
    width=st.integers(64, 300),
    objects=st.tuples(st.integers(1, 12), st.integers(0, 6)),
)
def test_defects_lie_on_parts_and_change_nothing_else(seed: int, height: int, width: int, objects: tuple[int, int]):
    scene = render_scene(np.random.Generator(np.random.PCG64(seed)), height, width, (objects[0], sum(objects)))
    assert scene.gray.shape == scene.label.shape == scene.kind.shape == (height, width)
    assert scene.gray.dtype == scene.label.dtype == scene.kind.dtype == np.uint8
    assert scene.kind.max() < SCRATCH and scene.label.max() <= DENT
    defect = scene.label >= SCRATCH
    assert (scene.kind[defect] != BELT).all()
    assert (scene.label[~defect] == scene.kind[~defect]).all()


def test_defects_are_visible(scenes: list[Scene]):
    """In most images, scratches are brighter and dents darker than their part."""
    differences: dict[int, list[float]] = {SCRATCH: [], DENT: []}
    for scene in scenes:
        for defect, part in ((d, p) for d in differences for p in range(1, SCRATCH)):
            on, off = scene.gray[(scene.label == defect) & (scene.kind == part)], scene.gray[scene.label == part]
            if min(on.size, off.size) > 100:
                differences[defect].append(float(on.mean()) - float(off.mean()))
    assert np.median(differences[SCRATCH]) > 20 and np.median(differences[DENT]) < -12


def test_invalid_settings_are_rejected_with_a_hint():
    with pytest.raises(ConfigError, match=r"use \[3, 8\]"):
        DATA.build("parts", "train", objects=[8, 3])
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        DATA.build("parts", "trian")
    with pytest.raises(ConfigError) as caught:
        DATA.build("parts", "val", height=8, objects=[0, 4], seed=-1, val_images=0, widht=256)
    assert len(caught.value.errors) == 5
