"""The sample stream: the same whatever the workers, the ranks or the restarts, and no process left behind."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segzoo.data.loader import derive_seed, eval_batches, train_batches
from segzoo.registry import AUGMENTS
from segzoo.types import DataError, DatasetInfo, Sample

INFO = DatasetInfo("numbers", tuple("abcdefghijk"), ((0, 0, 0),) * 11)
ROOT = Path(__file__).parents[2]


class Numbers:
    """Images that show their own index, and a list of what was opened."""

    def __init__(self, count: int, sizes=((6, 8),), dtype=np.uint8, wrong: dict | None = None):
        self.info, self.count, self.sizes, self.dtype, self.wrong, self.opened = INFO, count, sizes, dtype, wrong or {}, []

    def scan(self):
        pass

    def __len__(self):
        return self.count

    def name(self, index):
        return f"picture{index}"

    def __getitem__(self, index):
        self.opened.append(index)
        if isinstance(self.wrong.get(index), Exception):
            raise self.wrong[index]
        size = self.sizes[index % len(self.sizes)]
        label = np.full(size, self.wrong.get(index, index % 11), self.dtype)
        return Sample(np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8), label, self.name(index))


def train(count: int | Numbers = 10, **given):
    words: dict[str, Any] = {"batch_size": 4, "workers": 0, "seed": 1, "stop": 8, **given}
    return train_batches(count if isinstance(count, Numbers) else Numbers(count), words.pop("augment", None), **words)


def order(batches):
    return [index for batch in batches for index in batch.indices]


@given(st.integers(1, 12), st.integers(1, 7), st.integers(1, 3), st.integers(0, 9), st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_ranks_and_batch_size_share_one_stream(count, batch_size, world, first, seed):
    stream = order(train(count, batch_size=1, seed=seed, stop=(first + 2) * batch_size * world))
    ranks = [train(count, batch_size=batch_size, seed=seed, start=first, stop=first + 2, rank=r, world=world) for r in range(world)]
    together = [index for step in zip(*ranks, strict=True) for batch in step for index in batch.indices]
    assert together == stream[first * batch_size * world :]
    for epoch in range(len(stream) // count):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(st.integers(1, 12), st.integers(1, 7), st.integers(0, 60), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_run_goes_on_after_the_pictures_seen_whatever_its_batches_were(count, batch_size, seen, world):
    stream = order(train(count, batch_size=1, stop=seen + 2 * batch_size * world))
    ranks = [train(count, batch_size=batch_size, stop=2, seen=seen, rank=r, world=world) for r in range(world)]
    assert [i for step in zip(*ranks, strict=True) for batch in step for i in batch.indices] == stream[seen:]


def test_epochs_and_seeds_differ_in_order():
    stream = order(train(50, batch_size=50, stop=2))
    assert stream[:50] != stream[50:] != order(train(50, batch_size=50, stop=2, seed=2))[50:]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_restarts_change_nothing(workers):
    augment = AUGMENTS.build("standard", INFO, crop=[9, 7], rotate=20.0, color=0.4, blur=0.5)
    whole = list(train(Numbers(10), augment=augment))
    again = list(train(Numbers(10), augment=augment, workers=workers, start=3))
    assert len(again) == 5
    for one, two in zip(whole[3:], again, strict=True):
        assert one.indices == two.indices and one.names == two.names
        assert torch.equal(one.image, two.image) and torch.equal(one.label, two.label)


def test_a_picture_looks_different_in_each_epoch():
    augment = AUGMENTS.build("standard", INFO, crop=[16, 16])
    seen = [batch.image for batch in train(Numbers(1), augment=augment, batch_size=1, stop=12)]
    assert len({image.numpy().tobytes() for image in seen}) == 12


def test_a_restart_opens_no_skipped_picture():
    data = Numbers(10)
    assert order(train(data, start=1000, stop=1002)) == data.opened and len(data.opened) == 8


def test_endless_without_stop():
    assert len(order(itertools.islice(train(3, stop=None), 50))) == 200


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    list(train(workers=1, stop=2))
    list(eval_batches(Numbers(3), workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def children_gone(seconds=10):
    end = time.monotonic() + seconds
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.05)
    return not multiprocessing.active_children()


def test_workers_end_when_exhausted_dropped_or_closed():
    stream = train(workers=2, stop=3)
    assert len(list(stream)) == 3 and children_gone() and next(stream, None) is None
    stream = train(workers=2, stop=None)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    del stream
    gc.collect()
    assert children_gone()
    stream = train(workers=1, stop=None)
    next(stream)
    stream.close()
    assert children_gone() and next(stream, None) is None


def test_workers_outlive_the_signals_of_the_group():
    stream = train(workers=2, stop=40)
    next(stream)
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGTERM)
        os.kill(child.pid or 0, signal.SIGINT)
    assert len(list(stream)) == 39


def test_leaving_with_open_workers_does_not_hang():
    code = "from test_loader import *; s = train(workers=2, stop=None); next(s); keep = [s, s.__next__]; raise SystemExit(3)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, timeout=100).returncode == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_faults_name_the_file(workers):
    def message(**data):
        with pytest.raises(DataError) as caught:
            list(train(Numbers(10, **data), workers=workers))
        assert multiprocessing.active_children() == [] or children_gone()
        return str(caught.value)

    assert message(wrong={3: DataError("picture3.png is truncated")}) == "picture3.png is truncated"
    assert "picture7" in (text := message(wrong={7: 11})) and "11 (48 pixels)" in text and "0..10, or 255" in text
    text = message(sizes=((6, 8), (7, 8)))
    assert "6x8" in text and "7x8" in text and "augment.crop=[H,W]" in text and "picture" in text


def test_other_errors_keep_their_type_and_end_the_workers():
    with pytest.raises(RuntimeError, match="out of order"):
        list(train(Numbers(10, wrong={3: RuntimeError("out of order")}), workers=2))
    assert children_gone()


def test_image_and_label_of_different_size_are_refused():
    class Skew(Numbers):
        def __getitem__(self, index):
            return super().__getitem__(index)._replace(label=np.zeros((6, 7), np.uint8))

    with pytest.raises(DataError, match=r"image\d: .*\(6, 8, 3\) uint8 and \(6, 7\) uint8"):
        next(train(Skew(4)))


def test_a_crop_makes_unequal_pictures_a_batch():
    batch = next(train(Numbers(10, sizes=((6, 8), (9, 3))), augment=AUGMENTS.build("standard", INFO, crop=[5, 7])))
    assert batch.image.shape == (4, 5, 7, 3) and batch.image.dtype == torch.uint8 and batch.label.shape == (4, 5, 7)


@pytest.mark.parametrize(("dtype", "wanted"), [(np.uint8, torch.uint8), (np.uint16, torch.int32)])
def test_label_types(dtype, wanted):
    assert next(train(Numbers(10, dtype=dtype))).label.dtype == wanted


@pytest.mark.parametrize(("workers", "world"), [(0, 1), (0, 3), (2, 2)])
def test_evaluation_sees_each_picture_once_and_in_order(workers, world):
    shards = [list(eval_batches(Numbers(7, ((6, 8), (5, 5))), workers=workers, rank=r, world=world)) for r in range(world)]
    for rank, shard in enumerate(shards):
        assert order(shard) == list(range(rank, 7, world)) and all(len(batch.names) == 1 for batch in shard)
    assert sorted(order(itertools.chain(*shards))) == list(range(7))


def test_no_pictures():
    with pytest.raises(DataError, match="'numbers' holds no training sample"):
        train(0)
    assert list(eval_batches(Numbers(0), workers=0)) == []


@pytest.mark.parametrize("words", [{"batch_size": 0}, {"workers": -1}, {"rank": 2, "world": 2}, {"start": 5, "stop": 4}])
def test_nonsense_is_refused_at_the_call(words):
    with pytest.raises(ValueError, match=next(iter(words))):
        train(**words)


def test_seeds_of_neighbours_differ():
    near = [derive_seed(*numbers) for numbers in itertools.product(range(12), repeat=3)]
    assert len(set(near)) == len(near) and all(0 <= value < 2**64 for value in near)
    assert (
        derive_seed(1, 23) != derive_seed(12, 3)
        and derive_seed(2**64, 1) != derive_seed(0, 1)
        and derive_seed(0, 0) != derive_seed(0)
    )
    assert derive_seed(3, 1, 4) == 16257419454226508822, "stored runs rely on these numbers"


@pytest.mark.filterwarnings("error")
def test_views_and_read_only_arrays_are_stacked():
    class Views(Numbers):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            image, label = sample.image[:, ::-1], sample.label[::-1].copy()
            label.flags.writeable = False
            return Sample(image, label, sample.name)

    batch = next(train(Views(4), batch_size=2))
    assert np.array_equal(batch.image[0], Numbers(4)[batch.indices[0]].image[:, ::-1])
