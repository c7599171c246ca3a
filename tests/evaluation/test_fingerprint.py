"""Ranks with different images are rejected by names alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from ranks import run_ranks
from toy_training import ToyData

from segzoo.distributed import SINGLE_PROCESS, Distributed
from segzoo.evaluation.fingerprint import check_equal_images, hash_names, image_names
from segzoo.types import DataError


class Unread(ToyData):
    """Toy images whose files must not be opened."""

    def __getitem__(self, index):
        raise AssertionError("an image was read")


class Reversed(Unread):
    def name(self, index):
        return super().name(self.count - 1 - index)


@dataclass(frozen=True)
class Pair(Distributed):
    """Rank 0 of two, with what rank 1 sends."""

    size: int = 2
    sent: Any = None

    def gather(self, value):
        return [value, self.sent]


def pair_with(*others):
    names = [image_names(other) for other in others]
    return Pair(sent=[(len(own), hash_names(own)) for own in names])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Unread(4), r"rank 0 finds 5, rank 1 finds 4\)\. Use equal copies of the data on every machine\."),
        (Unread(5, first=1), r"rank 1 finds 5 of other names or in another order"),
        (Reversed(5), r"rank 1 finds 5 of other names or in another order"),
    ],
)
def test_ranks_with_other_images_are_rejected(other, expected):
    check_equal_images(SINGLE_PROCESS, Unread(5))
    check_equal_images(pair_with(Unread(3), Unread(5)), Unread(3), Unread(5))
    with pytest.raises(DataError, match=rf"the processes find different images \(.*{expected}"):
        check_equal_images(pair_with(Unread(3), other), Unread(3), Unread(5))


DIFFERENT = """
from pathlib import Path
import torch
from toy_training import INFO, Toy, ToyData, make_components, make_run_dir, settings, train
from segzoo.distributed import init_distributed
from segzoo.evaluation.evaluator import evaluate
from segzoo.types import DataError

def caught(action):
    try:
        action()
    except DataError as error:
        print("DataError", error)

torch.set_num_threads(1)
with init_distributed("cpu") as dist:
    data = ToyData(4 + dist.rank, first=100)
    caught(lambda: evaluate(Toy(), data, INFO, distributed=dist, device="cpu", workers=0))
    components = make_components(train_set=ToyData(10, first=dist.rank))
    caught(lambda: train(components, make_run_dir(Path({root!r})), dist, **settings()))
"""


@pytest.mark.integration
def test_every_rank_reports_different_images(tmp_path):
    for output in run_ranks(DIFFERENT.format(root=str(tmp_path))):
        first, second = (line for line in output.splitlines() if line.startswith("DataError"))
        assert "(rank 0 finds 4, rank 1 finds 5)" in first and "rank 1 finds 10 of other names" in second
    assert not (tmp_path / "checkpoints").exists()
