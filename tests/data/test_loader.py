"""Batches: one stream for any number of workers, ranks and restarts.

No worker process may be left over.
"""

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

from segzoo.data.balance.sampling import derive_seed
from segzoo.data.loader import eval_batches, train_batches
from segzoo.registry import AUGMENTS
from segzoo.types import DataError, DatasetInfo, Sample

INFO = DatasetInfo("numbers", tuple("abcdefghijk"), ((0, 0, 0),) * 11)
ROOT = Path(__file__).parents[2]


class Numbers:
    """Data set whose labels encode the image index.

    ``opened`` records which images were read.
    """

    def __init__(self, count: int, sizes=((6, 8),), dtype=np.uint8, overrides: dict | None = None):
        self.info, self.count, self.sizes, self.dtype, self.overrides, self.opened = INFO, count, sizes, dtype, overrides or {}, []

    def scan(self):
        pass

    def __len__(self):
        return self.count

    def name(self, index):
        return f"image{index}"

    def image(self, index):
        return self[index].image

    def __getitem__(self, index):
        self.opened.append(index)
        if isinstance(self.overrides.get(index), Exception):
            raise self.overrides[index]
        size = self.sizes[index % len(self.sizes)]
        label = np.full(size, self.overrides.get(index, index % 11), self.dtype)
        return Sample(np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8), label, self.name(index))


def train(data: int | Numbers = 10, **changed):
    options: dict[str, Any] = {"batch_size": 4, "workers": 0, "seed": 1, "stop": 8, **changed}
    return train_batches(data if isinstance(data, Numbers) else Numbers(data), options.pop("augment", None), **options)


def order(batches):
    return [index for batch in batches for index in batch.indices]


@given(st.integers(1, 12), st.integers(1, 7), st.integers(1, 3), st.integers(0, 9), st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_ranks_and_batch_size_share_one_stream(count, batch_size, world_size, first, seed):
    stream = order(train(count, batch_size=1, seed=seed, stop=(first + 2) * batch_size * world_size))
    ranks = [
        train(count, batch_size=batch_size, seed=seed, start=first, stop=first + 2, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    together = [index for step in zip(*ranks, strict=True) for batch in step for index in batch.indices]
    assert together == stream[first * batch_size * world_size :]
    for epoch in range(len(stream) // count):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(st.integers(1, 12), st.integers(1, 7), st.integers(0, 60), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_run_resumes_after_the_images_seen_with_any_batch_size(count, batch_size, images_seen, world_size):
    stream = order(train(count, batch_size=1, stop=images_seen + 2 * batch_size * world_size))
    ranks = [
        train(count, batch_size=batch_size, stop=2, images_seen=images_seen, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    assert [i for step in zip(*ranks, strict=True) for batch in step for i in batch.indices] == stream[images_seen:]


def test_epochs_and_seeds_differ_in_order():
    stream = order(train(50, batch_size=50, stop=2))
    assert stream[:50] != stream[50:] != order(train(50, batch_size=50, stop=2, seed=2))[50:]


@pytest.mark.integration
def test_workers_beyond_the_cores_bring_no_advice():
    """A filter of the package hides it, so the process is a new one."""
    code = "import os; os.sched_setaffinity(0, {0}); from segzoo.data.loader import DataLoader; DataLoader([1], num_workers=3)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stderr == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_restarts_change_nothing(workers):
    augment = AUGMENTS.build("standard", INFO, crop=[9, 7], rotate=20.0, color_jitter=0.4, blur=0.5)
    uninterrupted = list(train(Numbers(10), augment=augment))
    resumed = list(train(Numbers(10), augment=augment, workers=workers, start=3))
    assert len(resumed) == 5
    for expected, actual in zip(uninterrupted[3:], resumed, strict=True):
        assert expected.indices == actual.indices and expected.names == actual.names
        assert torch.equal(expected.image, actual.image) and torch.equal(expected.label, actual.label)


def test_an_image_is_augmented_differently_in_each_epoch():
    augment = AUGMENTS.build("standard", INFO, crop=[16, 16])
    seen = [batch.image for batch in train(Numbers(1), augment=augment, batch_size=1, stop=12)]
    assert len({image.numpy().tobytes() for image in seen}) == 12


def test_resuming_opens_no_skipped_image():
    data = Numbers(10)
    assert order(train(data, start=1000, stop=1002)) == data.opened and len(data.opened) == 8


def test_endless_without_stop():
    assert len(order(itertools.islice(train(3, stop=None), 50))) == 200


def test_the_global_random_state_is_unchanged():
    before = torch.get_rng_state()
    list(train(workers=1, stop=2))
    list(eval_batches(Numbers(3), workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def workers_ended(seconds=10):
    end = time.monotonic() + seconds
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.05)
    return not multiprocessing.active_children()


def test_workers_end_when_exhausted_deleted_or_closed():
    stream = train(workers=2, stop=3)
    assert len(list(stream)) == 3 and workers_ended() and next(stream, None) is None
    stream = train(workers=2, stop=None)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    del stream
    gc.collect()
    assert workers_ended()
    stream = train(workers=1, stop=None)
    next(stream)
    stream.close()
    assert workers_ended() and next(stream, None) is None


def test_workers_survive_signals_to_the_process_group():
    stream = train(workers=2, stop=40)
    next(stream)
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGTERM)
        os.kill(child.pid or 0, signal.SIGINT)
    assert len(list(stream)) == 39


@pytest.mark.integration
def test_exiting_with_open_workers_does_not_hang():
    code = "from test_loader import *; s = train(workers=2, stop=None); next(s); keep = [s, s.__next__]; raise SystemExit(3)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, timeout=100).returncode == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_name_the_file(workers):
    def message(**data):
        with pytest.raises(DataError) as caught:
            list(train(Numbers(10, **data), workers=workers))
        assert multiprocessing.active_children() == [] or workers_ended()
        return str(caught.value)

    assert message(overrides={3: DataError("image3.png is truncated")}) == "image3.png is truncated"
    assert "image7" in (text := message(overrides={7: 11})) and "11 (48 pixels)" in text and "0..10, or 255" in text
    text = message(sizes=((6, 8), (7, 8)))
    assert "6x8" in text and "7x8" in text and "augment.crop=[H,W]" in text and "image" in text


def test_other_errors_keep_their_type_and_end_the_workers():
    with pytest.raises(RuntimeError, match="out of order"):
        list(train(Numbers(10, overrides={3: RuntimeError("out of order")}), workers=2))
    assert workers_ended()


def test_image_and_label_of_different_sizes_are_rejected():
    class Mismatched(Numbers):
        def __getitem__(self, index):
            return super().__getitem__(index)._replace(label=np.zeros((6, 7), np.uint8))

    with pytest.raises(DataError, match=r"image\d: .*\(6, 8, 3\) uint8 and \(6, 7\) uint8"):
        next(train(Mismatched(4)))


def test_a_crop_makes_images_of_different_sizes_a_batch():
    batch = next(train(Numbers(10, sizes=((6, 8), (9, 3))), augment=AUGMENTS.build("standard", INFO, crop=[5, 7])))
    assert batch.image.shape == (4, 5, 7, 3) and batch.image.dtype == torch.uint8 and batch.label.shape == (4, 5, 7)


@pytest.mark.parametrize(("dtype", "expected"), [(np.uint8, torch.uint8), (np.uint16, torch.int32)])
def test_label_types(dtype, expected):
    assert next(train(Numbers(10, dtype=dtype))).label.dtype == expected


@pytest.mark.parametrize(("workers", "world_size"), [(0, 1), (0, 3), (2, 2)])
def test_evaluation_sees_each_image_once_and_in_order(workers, world_size):
    shards = [
        list(eval_batches(Numbers(7, ((6, 8), (5, 5))), workers=workers, rank=r, world_size=world_size)) for r in range(world_size)
    ]
    for rank, shard in enumerate(shards):
        assert order(shard) == list(range(rank, 7, world_size)) and all(len(batch.names) == 1 for batch in shard)
    assert sorted(order(itertools.chain(*shards))) == list(range(7))


def test_empty_data_set():
    with pytest.raises(DataError, match="'numbers' has no training sample"):
        train(0)
    assert list(eval_batches(Numbers(0), workers=0)) == []


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": -1}, {"rank": 2, "world_size": 2}, {"start": 5, "stop": 4}])
def test_out_of_range_arguments_are_rejected_at_the_call(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        train(**options)


def test_derived_seeds_differ():
    seeds = [derive_seed(*numbers) for numbers in itertools.product(range(12), repeat=3)]
    assert len(set(seeds)) == len(seeds) and all(0 <= value < 2**64 for value in seeds)
    assert (
        derive_seed(1, 23) != derive_seed(12, 3)
        and derive_seed(2**64, 1) != derive_seed(0, 1)
        and derive_seed(0, 0) != derive_seed(0)
    )
    assert derive_seed(3, 1, 4) == 16257419454226508822, "stored runs depend on these seeds"


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


def test_batches_are_pinned_for_a_network_on_cuda_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)  # by another network of this process
    for pin in (False, True):
        streams = (
            eval_batches(Numbers(1), workers=0, pin=pin),
            train_batches(Numbers(1), None, batch_size=1, workers=0, seed=0, pin=pin),
        )
        assert [stream._loader.pin_memory for stream in streams] == [pin, pin]  # type: ignore[union-attr]
