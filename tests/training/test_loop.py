"""The training loop: gradients, schedules, checkpoints and errors."""

from __future__ import annotations

import json
import math
import re
import signal

import numpy as np
import pytest
import torch
from torch import nn
from toy_training import (
    SignalingData,
    Toy,
    ToyData,
    ToyLoss,
    hflip,
    make_components,
    make_run_dir,
    read_rows,
    settings,
    train,
    weights_hash,
)

from segzoo.checkpoints.serialization import read_model, read_trainer
from segzoo.checkpoints.store import latest_valid, list_checkpoints
from segzoo.registry import ConfigError
from segzoo.training.components import count_steps
from segzoo.training.state import Diverged
from segzoo.types import Sample


def test_accumulated_batches_equal_a_single_large_batch(tmp_path):
    class Uneven(ToyData):
        """Labels with different numbers of ignored rows, so batches differ in weight."""

        def __getitem__(self, index):
            sample = super().__getitem__(index)
            if index % 4 != 0:
                sample.label[: 4 + 8 * (index % 3)] = 255
            return sample

    def weights(name, **options):
        components = make_components(model=None, train_set=Uneven(9))
        torch.manual_seed(3)
        components.model = Toy(norm=False, drop=0.0)
        train(components, make_run_dir(tmp_path / name), **settings(steps=4, **options))
        return torch.cat([p.detach().flatten() for p in components.model.parameters()])

    joint = weights("joint", batch_size=6, grad_accum_steps=1)
    assert torch.allclose(weights("accumulated", batch_size=2, grad_accum_steps=3), joint, atol=1e-6)
    assert torch.allclose(weights("single", batch_size=1, grad_accum_steps=6), joint, atol=1e-6)

    class MeanOfMeans(ToyLoss):
        def terms(self, logits, label, weight=None):
            return super().terms(logits, label) / (1 if weight is None else 3)

    components = make_components(train_set=Uneven(9), loss=MeanOfMeans())
    torch.manual_seed(3)
    components.model = Toy(norm=False, drop=0.0)
    train(components, make_run_dir(tmp_path / "naive"), **settings(steps=4, batch_size=2, grad_accum_steps=3))
    naive = torch.cat([p.detach().flatten() for p in components.model.parameters()])
    assert not torch.allclose(naive, joint, atol=1e-3)  # the data above must distinguish the two


@pytest.mark.integration
def test_evaluating_and_saving_do_not_change_the_training(tmp_path, uninterrupted):
    components = make_components()
    train(components, make_run_dir(tmp_path), **settings(eval_every=12, save_every=None, num_val_images=2))
    assert weights_hash(components.model) == uninterrupted[1]
    assert components.model.training


class NanLoss(ToyLoss):
    """Returns NaN from its n-th call on."""

    def __init__(self, when: int):
        super().__init__()
        self.when, self.calls = when, 0

    def terms(self, logits, label, weight=None):
        self.calls += 1
        return super().terms(logits, label, weight) * (float("nan") if self.calls >= self.when else 1.0)


def test_a_nonfinite_loss_names_the_images_and_changes_no_weight(tmp_path):
    good = make_components()
    train(
        good, make_run_dir(tmp_path / "good"), **settings(steps=12, save_every=2, eval_every=12, keep_checkpoints=9, log_every=100)
    )
    bad = make_components(loss=NanLoss(when=3))
    with pytest.raises(Diverged, match="loss is nan at step 3, on toy") as error:
        train(bad, make_run_dir(tmp_path / "bad"), **settings(save_every=2, eval_every=12, log_every=100))
    assert len(re.findall(r"toy\d+", str(error.value))) == 4
    expected = read_model(tmp_path / "good/checkpoints/2")[0]
    for name, parameter in bad.model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    assert list_checkpoints(tmp_path / "bad")[-1] == 2


def test_a_nonfinite_gradient_stops_before_the_update(tmp_path):
    class InfiniteGradient(Toy):
        def forward(self, x):
            logits = super().forward(x)
            return logits._replace(main=logits.main + (self.head.weight.sum() * 0).sqrt())  # sqrt(0) has an infinite gradient

    components = make_components(model=InfiniteGradient())
    with pytest.raises(Diverged, match="gradient norm is (nan|inf) at step 1"):
        train(components, make_run_dir(tmp_path), **settings())
    before = read_model(tmp_path / "checkpoints/0")[0]
    assert all(torch.equal(p, before[name]) for name, p in components.model.named_parameters())


class OverflowingGradient(Toy):
    """Its gradient is infinite until the n-th step."""

    def __init__(self, until: float):
        super().__init__()
        self.until, self.steps = until, 0

    def forward(self, x):
        logits = super().forward(x)
        self.steps += self.training
        return logits._replace(main=logits.main + (self.head.weight.sum() * 0).sqrt()) if self.steps <= self.until else logits


def test_a_gradient_that_overflows_in_fp16_leaves_no_trace(tmp_path):
    """A fused optimizer would begin with uninitialized memory."""
    components = make_components(model=OverflowingGradient(2))
    components.make_optimizer = lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, fused=True)
    options = settings(steps=4, eval_every=4, save_every=1, keep_checkpoints=9, precision="fp16", deterministic=True)
    train(components, make_run_dir(tmp_path), **options)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["grad_norm"]) for row in rows if "grad_norm" in row)
    first, second, third = (read_model(tmp_path / f"checkpoints/{step}")[0] for step in (0, 2, 3))
    assert all(torch.equal(first[name], second[name]) for name in first if "num_batches" not in name)
    assert any(not torch.equal(second[name], third[name]) for name in first)
    assert all(tensor.isfinite().all() for tensor in third.values())
    torch.use_deterministic_algorithms(False)


def test_an_average_skips_the_steps_that_fp16_skips(tmp_path):
    options = settings(steps=4, eval_every=4, save_every=1, keep_checkpoints=9, precision="fp16", ema_decay=0.9)
    train(make_components(model=OverflowingGradient(2)), make_run_dir(tmp_path), **options)
    assert [read_trainer(tmp_path / f"checkpoints/{step}")["ema"]["steps"] for step in (2, 3, 4)] == [0, 1, 2]


def test_a_gradient_that_stays_infinite_in_fp16_ends_the_run(tmp_path):
    components = make_components(model=OverflowingGradient(math.inf))
    with pytest.raises(Diverged, match=r"gradient norm is (nan|inf) at step 1[789]"):  # below a scale of 1
        train(components, make_run_dir(tmp_path), **settings(steps=40, eval_every=40, precision="fp16", max_nonfinite_steps=0))


def test_learning_rates_follow_the_schedule_and_are_logged(uninterrupted):
    for row in read_rows(uninterrupted[0], "train"):
        assert row["lr"] == pytest.approx(0.05 * (1 - (row["step"] - 1) / 12) ** 0.9)
        assert row["loss_main"] > 0 and row["loss_aux"] > 0
        assert row["loss_main"] + row["loss_aux"] == pytest.approx(row["loss"])  # means over the same steps
    assert [row["step"] for row in read_rows(uninterrupted[0], "train")] == [5, 10, 12]
    assert [row["step"] for row in read_rows(uninterrupted[0], "val")] == [4, 8, 12]
    assert {"mIoU", "mAcc", "aAcc", "loss", "IoU/road"} <= read_rows(uninterrupted[0], "val")[0].keys()
    assert [row["step"] for row in read_rows(uninterrupted[0], "time")] == [5, 10, 12]


def test_groups_of_different_rates_have_a_curve_each(tmp_path):
    components = make_components()
    heads = [name for name, _ in components.model.named_parameters() if not name.startswith("backbone")]
    components.make_optimizer = lambda net: torch.optim.SGD(
        [
            {"params": [p for name, p in net.named_parameters() if name not in heads], "lr": 0.01, "name": "backbone"},
            {"params": [p for name, p in net.named_parameters() if name in heads], "lr": 0.1, "name": "heads"},
        ]
    )
    train(components, make_run_dir(tmp_path), **settings(steps=1))
    [row] = read_rows(tmp_path, "train")
    assert (row["lr/backbone"], row["lr/heads"]) == (0.01, 0.1) and "lr" not in row


def test_clipping_bounds_the_step(tmp_path):
    components = make_components(model=Toy(norm=False))
    components.make_optimizer = lambda net: torch.optim.SGD(net.parameters(), lr=1.0)
    components.make_schedule = lambda total: lambda step: 1.0
    train(components, make_run_dir(tmp_path), **settings(steps=1, clip_grad_norm=1e-3))
    before = read_model(tmp_path / "checkpoints/0")[0]
    moved = math.sqrt(sum(float((p - before[name]).detach().square().sum()) for name, p in components.model.named_parameters()))
    assert moved == pytest.approx(1e-3, rel=1e-2)
    assert read_rows(tmp_path, "train")[0]["grad_norm"] > 1e-2


def test_step_zero_is_saved_before_the_first_image_is_read(tmp_path):
    class CheckedData(ToyData):
        def __getitem__(self, index):
            assert latest_valid(tmp_path)[0] == tmp_path / "checkpoints/0"
            return super().__getitem__(index)

    train(make_components(train_set=CheckedData(4)), make_run_dir(tmp_path), **settings(steps=1))


def test_the_newest_and_best_checkpoints_are_kept(tmp_path, uninterrupted):
    directory, _, result = uninterrupted
    assert result["best_step"] == max(read_rows(directory, "val"), key=lambda row: row["mIoU"])["step"]
    assert set(list_checkpoints(directory)) == {9, 12, result["best_step"]}
    assert read_model(directory)[1]["step"] == result["best_step"]
    summary = json.loads((directory / "eval/summary.json").read_text())
    assert summary["miou"] == result["miou"] and summary["checkpoint_sha256"] == read_model(directory)[1]["sha256"]


def test_bf16_training_keeps_fp32_weights(tmp_path, uninterrupted):
    components = make_components()
    result = train(components, make_run_dir(tmp_path), **settings(precision="bf16"))
    assert {p.dtype for p in components.model.parameters()} == {torch.float32}
    assert weights_hash(components.model) != uninterrupted[1] and result["loss"] == pytest.approx(uninterrupted[2]["loss"], rel=0.2)


def test_epochs_are_rounded_up_to_steps(tmp_path):
    result = train(make_components(), make_run_dir(tmp_path), **settings(steps=None, epochs=1.5, batch_size=2, grad_accum_steps=2))
    assert (result["steps"], result["images_seen"]) == (4, 16)  # 15 images requested


@pytest.mark.parametrize(
    ("epochs", "images", "per_step", "steps"), [(0.07, 100, 1, 7), (0.29, 100, 1, 29), (0.301, 100, 1, 31), (1e-5, 9, 2, 1)]
)
def test_epochs_are_counted_as_they_are_typed(epochs, images, per_step, steps):
    assert count_steps(None, epochs, images, per_step) == steps


@pytest.mark.parametrize("changed", [{"batch_size": 4}, {"grad_accum_steps": 1}])
def test_a_run_in_epochs_keeps_its_images_per_step(tmp_path, changed):
    options = settings(steps=None, epochs=4, batch_size=2, grad_accum_steps=2, save_every=2)
    components = make_components(train_set=SignalingData(signal.SIGTERM, when=20))
    with pytest.raises(SystemExit):
        train(components, make_run_dir(tmp_path), **options)
    with pytest.raises(
        ConfigError, match=r"epochs=4 with \d images per step: the \d steps of this run .* steps=<number> epochs=null"
    ):
        train(make_components(), make_run_dir(tmp_path), **options | changed)
    assert train(make_components(), make_run_dir(tmp_path), **options)["images_seen"] == 40


@pytest.mark.parametrize("length", [{"steps": None, "epochs": None}, {"steps": 3, "epochs": 1.0}], ids=["neither", "both"])
def test_steps_and_epochs_are_exclusive(tmp_path, length):
    with pytest.raises(ConfigError, match="steps=<number> or epochs=<number>"):
        train(make_components(), make_run_dir(tmp_path), **settings(**length))


def test_accumulating_images_of_several_sizes_needs_a_loss_at_label_resolution(tmp_path):
    components = make_components(train_set=ToyData(6, vary=True), augment=None)
    with pytest.raises(ConfigError, match=r"several sizes .*loss.resolution=label"):
        train(components, make_run_dir(tmp_path / "no"), **settings(steps=2, batch_size=1, grad_accum_steps=3))
    components.loss.resolution = "label"  # type: ignore[attr-defined]
    assert train(components, make_run_dir(tmp_path / "yes"), **settings(steps=2, batch_size=1, grad_accum_steps=3))["steps"] == 2


def test_an_all_ignored_batch_changes_no_weight(tmp_path):
    class IgnoredLabels(ToyData):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return Sample(sample.image, np.full_like(sample.label, 255), sample.name)

    components = make_components(model=Toy(norm=False), train_set=IgnoredLabels(4), augment=hflip)
    train(components, make_run_dir(tmp_path), **settings(steps=2))
    before = read_model(tmp_path / "checkpoints/0")[0]
    assert all(torch.equal(p, before[name]) for name, p in components.model.named_parameters())


def test_frozen_batch_norm_keeps_its_statistics_through_evaluation(tmp_path):
    components = make_components()
    norm = components.model.get_submodule("backbone.1")
    assert isinstance(norm, nn.BatchNorm2d)
    frozen: nn.Module = norm
    frozen.train = lambda mode=True: frozen  # type: ignore[method-assign]
    frozen.training = False
    train(components, make_run_dir(tmp_path), **settings(steps=4))
    assert not norm.training and torch.equal(norm.running_mean, torch.zeros(8))  # type: ignore[arg-type]
