"""Class weights and samplers from the command line to a training."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from test_conf import compose
from tiny_run import TINY_RUN

from segzoo.cli.compose import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.build_training import build_training
from segzoo.config.validate import validation_errors
from segzoo.data.balance.class_counts import count_classes
from segzoo.data.balance.class_weights import automatic_class_weights
from segzoo.data.balance.report import class_shares, imbalance_note
from segzoo.data.balance.samplers import RareClassSampler
from segzoo.data.checks.split_report import SplitReport, make_report
from segzoo.types import DatasetInfo

SMALL = (*TINY_RUN, "model=icnet", "backbone=resnet50", "backbone.width=0.125")


def build(*overrides: str):
    return build_training(*resolve_config(parse_overrides("train", [*SMALL, *overrides]).jobs[0])[:2])


def test_automatic_weights_are_those_of_the_training_set():
    components = build("loss.class_weights=auto", "sampler=rare_class")
    expected = automatic_class_weights(count_classes(components.train_set))
    assert components.loss.class_weights == expected and len(set(expected)) > 3  # type: ignore[attr-defined]
    assert components.config["loss"]["class_weights"] == expected
    assert isinstance(components.sampler, RareClassSampler)


def test_parts_of_a_sum_may_have_automatic_weights():
    components = build("loss=cross_entropy_dice", "loss.settings={cross_entropy:{class_weights:auto}}")
    cross_entropy, dice = components.loss.losses  # type: ignore[attr-defined]
    assert dice.class_weights is None and len(cross_entropy.class_weights) == 8 and components.sampler is None


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["loss.class_weights=balanced"], "loss.class_weights='balanced': expected a list of numbers, 0 to 1,000,000, or auto, or null"),
        (["loss=cross_entropy_dice", "loss.settings={dice:{class_weights:[1,2]}}"], "loss.settings.dice.class_weights has 2 values"),
        (["loss=cross_entropy_dice", "loss.settings={dice:{gama:2}}"], "loss.settings.dice.gama: "),
        (["sampler=rare_class", "sampler.fraction=0"], "sampler.fraction=0"),
        (["sampler=repeat_factor", "sampler.threshold=2"], "sampler.threshold=2"),
    ],
    ids=str,
)  # fmt: skip
def test_invalid_settings_are_named_before_data_is_read(overrides, expected):
    assert any(expected in error for error in validation_errors("train", compose("train", *SMALL, *overrides)))


def test_shares_and_proposed_weights_before_step_one():
    info = DatasetInfo("parts", ("belt", "nut", "pin"), ((0, 0, 0),) * 3)
    report = make_report(info, 5, Counter({(20, 50): 2}), [{0: 900, 1: 4, 255: 96}, {0: 900, 2: 100}])
    assert class_shares(report) == "belt 94.54%, nut 0.21%, pin 5.25%"
    note = imbalance_note(report)
    assert note is not None and note.startswith("of the labeled pixels of 2 of 5 images together, less than 1% are nut. ")
    whole = imbalance_note(SplitReport(5, 5, {}, {"belt": 0.995, "nut": 0.005}, 0.0, class_counts=np.array([[995, 5]])))
    assert whole is not None and whole.startswith("of the labeled pixels of 5 images together, less than 1% are nut. ")
    weights = automatic_class_weights(np.array([[900, 4, 0], [900, 0, 100]]))
    assert f"loss.class_weights=auto, here 'loss.class_weights=[{','.join(map(str, weights))}]'" in note


def test_many_classes_are_abridged_and_common_ones_need_no_weights():
    many = SplitReport(1, 1, {}, {f"c{number}": (number + 1) / 820 for number in range(40)}, 0.0)
    shares = class_shares(many).split(", ")
    assert len(shares) == 25 and shares[0] == "c39 4.88%" and shares[12] == "..." and shares[-1] == "c0 0.12%"
    assert imbalance_note(SplitReport(1, 1, {}, {"a": 0.5, "b": 0.5, "absent": 0.0}, 0.0)) is None
