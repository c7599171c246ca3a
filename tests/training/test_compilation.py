"""Training with ``compile=true``: like an uncompiled one, and resumed exactly."""

from __future__ import annotations

import copy
import signal

import pytest
import torch
from toy_training import SignalingData, Toy, make_components, make_run_dir, read_rows, settings, train, weights_hash

from segzoo.config.checks.compilation import compile_errors
from segzoo.losses.distillation import Teacher
from segzoo.registry import PRUNERS

PLAIN = {
    "compile": True,
    "device": "cpu",
    "augment": {"crop": [64, 64]},
    "data": {"name": "camvid"},
    "backbone": {"checkpoint": False},
}


@pytest.mark.integration
def test_a_compiled_training_learns_the_same(tmp_path):
    teacher = Toy()
    teacher.get_parameter("backbone.0.weight").data.mul_(2)
    rows, weights = [], []
    for compile in (False, True):
        torch.manual_seed(3)
        components = make_components(Toy(drop=0.0))
        # its hooks run in the compiled network
        components.distill = Teacher(copy.deepcopy(teacher), 1.0, 2.0, ("backbone.0",), 1.0)
        train(components, make_run_dir(tmp_path / str(compile)), **settings(compile=compile, log_every=1))
        rows.append(read_rows(tmp_path / str(compile), "train"))
        weights.append(list(components.model.state_dict().values()))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)
    for eager, compiled in zip(*rows, strict=True):
        assert compiled["loss_aux"] == pytest.approx(eager["loss_aux"], rel=1e-3)


@pytest.mark.integration
def test_a_compiled_training_is_pruned_and_resumes_exactly(tmp_path):
    def run(directory, train_set=None):
        components = make_components(train_set=train_set)
        components.pruner = PRUNERS.build("l1", keep_schedule=[0.75, 0.5], start=0.25)
        train(components, make_run_dir(directory), **settings(compile=True))
        return components.model

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", SignalingData(signal.SIGINT, 26))
    assert weights_hash(run(tmp_path / "stopped")) == weights_hash(whole)
    assert whole.get_parameter("backbone.0.weight").shape[0] == 4


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({}, None),
        ({"compile": False, "augment": {"crop": None}}, None),
        ({"augment": {"crop": None}}, "'augment.crop=[H,W]'"),
        ({"augment": {}, "data": {"name": "parts", "height": 96, "width": 128}}, None),
        ({"backbone": {"checkpoint": True}}, "recomputed layers are not compiled"),
    ],
)
def test_compiling_needs_crops_of_one_size(monkeypatch, changed, error):
    monkeypatch.setenv("CXX", "true")  # a program that every machine has
    errors = compile_errors(PLAIN | changed)
    assert [error in message for message in errors] == [True] if error else errors == []


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler is not installed" in compile_errors(PLAIN)[0]
