"""Samplers: exact restarts, frequencies of draws, crops of drawn classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segzoo.data.balance.class_counts import count_classes
from segzoo.data.balance.sampling import Draw, Shuffle, derive_seed
from segzoo.data.loader import train_batches
from segzoo.registry import AUGMENTS, SAMPLERS, ConfigError
from segzoo.types import DatasetInfo, Sample

INFO = DatasetInfo("spots", ("ground", "spot", "dot"), ((0, 0, 0),) * 3)
COUNTS = arrays(np.int64, st.tuples(st.integers(1, 8), st.just(3)), elements=st.sampled_from([0, 0, 1, 900]))


class Spots:
    """Ten images, of which five have a spot and two a dot."""

    info = INFO

    def scan(self):
        pass

    def __len__(self):
        return 10

    def name(self, index):
        return f"image{index}"

    def image(self, index):
        return self[index].image

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = np.zeros((40, 50), np.uint8)
        for train_id, size in ((1, 6), (2, 3)):
            row, column = rng.integers(0, 40 - size), rng.integers(0, 50 - size)
            if index % (2 if train_id == 1 else 5) == 0:
                label[row : row + size, column : column + size] = train_id
        return Sample(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), label, self.name(index))


def build(name, counts=None, **options):
    counts = count_classes(Spots()) if counts is None else counts
    return SAMPLERS.build(name, lambda: counts, **options) or Shuffle(len(counts))


def draws(sampler, stop, seed=0):
    epochs = [sampler.epoch(seed, number) for number in range(-(-stop // len(sampler)))]
    return [epochs[position // len(sampler)](position % len(sampler)) for position in range(stop)]


SAMPLERS_OF_SPOTS = {"shuffle": {}, "rare_class": {}, "repeat_factor": {"threshold": 0.9}}


def test_every_sampler_is_tested():
    assert sorted(SAMPLERS_OF_SPOTS) == SAMPLERS.names()


def test_shuffle_is_a_permutation_with_seeds_of_epoch_and_index():
    order = np.random.default_rng(derive_seed(3, 1)).permutation(10).tolist()
    assert draws(build("shuffle"), 20, seed=3)[10:] == [Draw(index, derive_seed(3, 1, index)) for index in order]


@pytest.mark.parametrize(("name", "options"), SAMPLERS_OF_SPOTS.items(), ids=lambda value: value if isinstance(value, str) else "")
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 25), st.integers(0, 2**40))
@settings(max_examples=15, deadline=None)
def test_ranks_restarts_and_batch_sizes_share_one_stream(name, options, batch_size, world_size, images_seen, seed):
    expected = draws(build(name, **options), images_seen + 2 * batch_size * world_size, seed)[images_seen:]
    ranks = [
        train_batches(
            Spots(),
            lambda sample, seed: Sample(sample.image, sample.label, f"{seed} {sample.focus is not None}"),
            batch_size=batch_size,
            workers=0,
            seed=seed,
            stop=2,
            images_seen=images_seen,
            rank=rank,
            world_size=world_size,
            sampler=build(name, **options),
        )
        for rank in range(world_size)
    ]
    batches = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert [index for batch in batches for index in batch.indices] == [draw.index for draw in expected]
    names = [name for batch in batches for name in batch.names]
    assert names == [f"{draw.seed} {draw.train_id is not None}" for draw in expected]


def test_any_number_of_workers_gives_the_same_crops():
    def batches(workers, start):
        augment = AUGMENTS.build("standard", INFO, crop=[9, 7], rotate=30.0)
        stream = {"batch_size": 4, "workers": workers, "seed": 1, "start": start, "stop": 8}
        return list(train_batches(Spots(), augment, sampler=build("rare_class"), **stream))

    for expected, actual in zip(batches(0, 0)[3:], batches(2, 3), strict=True):
        assert expected.indices == actual.indices and torch.equal(expected.image, actual.image)
        assert torch.equal(expected.label, actual.label)


def test_classes_are_drawn_by_inverse_frequency():
    counts = np.array([[800, 100, 0], [100, 0, 0], [0, 0, 0]])
    for power, share in ((1.0, 0.9), (0.5, 0.75), (0.0, 0.5)):  # of the class with a tenth of the pixels
        drawn = draws(build("rare_class", counts, fraction=1.0, power=power), 3000)
        rare = [draw for draw in drawn if draw.train_id == 1]
        assert len(rare) / 3000 == pytest.approx(share, abs=0.03)
        assert {draw.index for draw in rare} == {0} and {draw.index for draw in drawn} == {0, 1}
        common = [draw.index for draw in drawn if draw.train_id == 0]
        assert np.mean(common) == pytest.approx(0.5, abs=0.1)  # both images alike
        assert len({draw.seed for draw in drawn}) == 3000
    shuffled = [draw for draw in draws(build("rare_class", counts, fraction=0.25), 3000) if draw.train_id is None]
    assert len(shuffled) / 3000 == pytest.approx(0.75, abs=0.03) and {draw.index for draw in shuffled} == {0, 1, 2}


def test_crops_contain_the_drawn_class():
    augment = AUGMENTS.build("standard", INFO, crop=[9, 7], scale=False)
    sampler = build("rare_class", fraction=1.0)
    stream = train_batches(Spots(), augment, batch_size=1, workers=0, seed=0, stop=200, sampler=sampler)
    drawn = draws(sampler, 200)
    assert all(draw.train_id in batch.label for draw, batch in zip(drawn, stream, strict=True))
    assert {draw.train_id for draw in drawn} >= {1, 2}
    random = train_batches(Spots(), augment, batch_size=1, workers=0, seed=0, stop=200)
    assert np.mean([2 in batch.label for batch in random]) < 0.1


def test_repeat_factors_of_an_example():
    counts = np.zeros((100, 3), np.int64)
    counts[:, 0], counts[:25, 1], counts[24, 2] = 9, 9, 1  # in all, a quarter and a hundredth of the images
    sampler = build("repeat_factor", counts, threshold=0.5)
    factors = np.ones(100)
    factors[:25], factors[24] = 2**0.5, 50**0.5
    assert len(sampler) == round(factors.sum())
    assert draws(sampler, 2 * len(sampler))[: len(sampler)] != draws(sampler, 2 * len(sampler))[len(sampler) :]
    drawn = [draw.index for draw in draws(sampler, 400 * len(sampler))]
    copies = np.bincount(drawn, minlength=100) / 400
    assert np.abs(copies - factors * len(sampler) / factors.sum()).max() < 0.1


@given(COUNTS, st.sampled_from([0.05, 0.5, 1.0]), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_an_epoch_holds_each_image_as_often_as_its_factor_rounded(counts, threshold, seed):
    frequencies = (counts > 0).mean(0)
    if frequencies[frequencies > 0].min(initial=1.0) >= threshold:
        with pytest.raises(ConfigError, match="would repeat no image"):
            build("repeat_factor", counts, threshold=threshold)
        return
    sampler = build("repeat_factor", counts, threshold=threshold)
    factors = [max([1.0, *((threshold / frequencies[row > 0]) ** 0.5)]) for row in counts]
    expected = np.array(factors) * len(sampler) / sum(factors)
    drawn = draws(sampler, 2 * len(sampler), seed)
    for epoch in (drawn[: len(sampler)], drawn[len(sampler) :]):
        copies = np.bincount([draw.index for draw in epoch], minlength=len(counts))
        assert (np.abs(copies - expected) < 1 + 1e-6).all()
    assert len({draw.seed for draw in drawn}) == len(drawn)  # copies are augmented differently


def test_samplers_without_effect_are_rejected():
    counts = np.array([[5, 5, 0], [5, 0, 0]])
    with pytest.raises(ConfigError, match=r"each class is in at least 50\.00% .*threshold=0\.1\. Set a threshold above 0\.5"):
        build("repeat_factor", counts)
    with pytest.raises(ConfigError, match="all training images are ignored"):
        build("rare_class", counts * 0)
