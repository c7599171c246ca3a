"""Planted label errors, and the recall of a ranking."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy.suspects import VOID, plant, recall, write_folds


def scene() -> np.ndarray:
    """A square object of class 8 in class 3, next to void."""
    label = np.full((200, 300), 3, np.uint8)
    label[50:80, 100:140] = 8
    label[80:90] = VOID
    return label


@pytest.mark.parametrize("seed", range(3))
def test_an_object_is_swapped_missing_or_shifted(seed):
    label, inside = scene(), np.zeros((200, 300), bool)
    inside[50:80, 100:140] = True
    for kind in ("swapped", "missing", "shifted"):
        planted = plant(label, kind, np.random.default_rng(seed))
        assert planted
        changed, error = planted
        assert error == {"kind": kind, "class": 8, "pixels": 1200, "box": [100, 50, 40, 30]}
        if kind == "shifted":
            rows, columns = np.nonzero(changed == 8)
            assert abs(rows.min() - 50) == 15 and abs(columns.min() - 100) == 20 and len(rows) == 1200
        else:
            new = np.unique(changed[inside]).tolist()
            assert len(new) == 1 and new[0] != 8 and (kind == "swapped" or new == [3])
            assert (changed[~inside] == label[~inside]).all()


def test_an_image_without_an_object_gets_no_error():
    assert plant(np.full((200, 300), 3, np.uint8), "missing", np.random.default_rng(0)) is None


def test_recall_counts_the_first_tenth():
    ranking = [f"{number:02}" for number in range(40)]
    planted = {"00": {"kind": "swapped"}, "03": {"kind": "missing"}, "04": {"kind": "missing"}, "39": {"kind": "shifted"}}
    result = recall(ranking, planted)
    assert result["recall"] == 0.5 and result["by_kind"] == {"swapped": 1.0, "missing": 0.5, "shifted": 0.0}
    assert result["ranks"] == {"00": 1, "03": 4, "04": 5, "39": 40}


def test_every_image_is_judged_by_the_fold_that_does_not_train_on_it(tmp_path):
    write_folds(tmp_path, list("abcde"))
    for fold, judged in enumerate(("ace", "bd")):
        lists = [(tmp_path / f"fold{fold}/{part}.txt").read_text().split() for part in ("val", "train")]
        assert lists == [list(judged), [stem for stem in "abcde" if stem not in judged]]
