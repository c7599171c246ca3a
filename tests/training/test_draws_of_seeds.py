"""Random numbers of a training, and the seeds that they follow from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from toy_training import make_components, make_run_dir, settings, train

from segzoo.checkpoints.serialization import read_trainer
from segzoo.distributed import Distributed
from segzoo.training.step import TrainStep
from segzoo.types import Batch


class RecordedMix:
    """Mixes nothing, and keeps the seeds that it gets."""

    def __init__(self):
        self.seeds: list[int] = []

    def __call__(self, label, seed):
        self.seeds.append(seed)
        return [(label, 1.0)], lambda x: x


def test_the_random_numbers_of_a_training_are_those_of_its_seed(tmp_path):
    def first_state(name: str, seed: int) -> torch.Tensor:
        train(make_components(), make_run_dir(tmp_path / name), **settings(steps=1, seed=seed))
        return read_trainer(tmp_path / name / "checkpoints/0")["rng"][0]["cpu"]

    one, again, other = first_state("one", 0), first_state("again", 0), first_state("other", 1)
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_each_accumulated_batch_is_mixed_by_a_seed_of_its_own(tmp_path):
    components, mix = make_components(), RecordedMix()
    components.mix = mix
    train(components, make_run_dir(tmp_path), **settings(steps=3, batch_size=2, grad_accum_steps=2))
    assert len(mix.seeds) == len(set(mix.seeds)) == 6


def test_ranks_and_trainings_of_other_seeds_mix_differently():
    mix = RecordedMix()
    batch = Batch(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, 4, 4, dtype=torch.uint8), ("a", "b"), (0, 1))
    for rank, seed in ((0, 0), (1, 0), (0, 1)):
        step: Any = object.__new__(TrainStep)
        step.dist = Distributed(rank, 2)
        step.context = SimpleNamespace(
            components=SimpleNamespace(mix=mix),
            precision=SimpleNamespace(device=torch.device("cpu")),
            settings=SimpleNamespace(seed=seed),
        )
        step._mix_batch(batch, 5)
    assert len(set(mix.seeds)) == 3
