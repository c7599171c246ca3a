"""The loop: exact resume, gradients that do not depend on splitting, and what happens when something goes wrong."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toy_training import Toy, ToyData, ToyLoss, hflip, make_components, make_run_dir, settings, train, train_in_child, weights_hash

from segzoo.checkpoints.serialization import read_model, read_trainer
from segzoo.checkpoints.store import latest_valid, list_checkpoints, read_pointer
from segzoo.registry import ConfigError
from segzoo.training import results as record
from segzoo.training.state import Diverged
from segzoo.types import Sample


def rows(folder: Path, *splits: str) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [row for row in map(json.loads, lines) if row["split"] in splits]
    return [{key: value for key, value in row.items() if key != "minutes"} for row in found]


class Signalling(ToyData):
    """Sends a signal to this process when an image is read for the n-th time, counting from 1."""

    def __init__(self, number: int, when: int, **words):
        super().__init__(**words)
        self.number, self.when, self.reads = number, when, 0

    def __getitem__(self, index):
        self.reads += 1
        if self.reads == self.when:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(index)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    components = make_components()
    result = train(components, make_run_dir(folder), **settings())
    return folder, weights_hash(components.model), result


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_stopped_and_resumed_equals_unbroken(tmp_path, unbroken, number):
    folder, wanted, result = unbroken
    before = signal.getsignal(number)  # a shell's background job ignores SIGINT
    components = make_components(train_set=Signalling(number, when=26))  # in the seventh batch of four, between two rows of the log
    with pytest.raises((KeyboardInterrupt, SystemExit), match="step 7" if number == signal.SIGINT else "143"):
        train(components, make_run_dir(tmp_path), **settings())
    assert list_checkpoints(tmp_path)[-1] == 7 and read_pointer(tmp_path, "last") == latest_valid(tmp_path)[0]
    assert signal.getsignal(number) == before

    torch.manual_seed(999)  # whatever the new process did with its generator does not matter
    again = make_components(model=Toy())
    resumed = train(again, make_run_dir(tmp_path), **settings(workers=1))
    assert weights_hash(again.model) == wanted
    assert rows(tmp_path, "train", "val") == rows(folder, "train", "val")
    assert resumed | {"train_minutes": 0} == result | {"train_minutes": 0}


def test_resumed_twice_in_fp16_with_adam_and_accumulation(tmp_path):
    def run(folder, train_set=None):
        components = make_components(train_set=train_set)
        components.make_optimizer = lambda net: torch.optim.AdamW(net.parameters(), lr=0.01)
        train(components, make_run_dir(folder), **settings(precision="fp16", batch_size=3, grad_accum_steps=2, log_every=1))
        return weights_hash(components.model), rows(folder, "train")

    wanted = run(tmp_path / "whole")
    for when in (8, 20):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", Signalling(signal.SIGINT, when))
    assert run(tmp_path / "parts") == wanted
    last = latest_valid(tmp_path / "parts")[0]
    assert last is not None and read_trainer(last)["scaler"]["_growth_tracker"] == 12


def test_a_signal_during_evaluation_is_heeded_there_and_the_evaluation_made_up(tmp_path, unbroken):
    folder, wanted, _ = unbroken
    val_set = Signalling(signal.SIGTERM, when=1, count=3, first=100, vary=True)
    with pytest.raises(SystemExit) as stopped:
        train(make_components(val_set=val_set), make_run_dir(tmp_path), **settings())
    assert stopped.value.code == 143 and val_set.reads == 1
    assert list_checkpoints(tmp_path)[-1] == 4 and rows(tmp_path, "val") == []
    again = make_components()
    train(again, make_run_dir(tmp_path), **settings())
    assert weights_hash(again.model) == wanted
    assert rows(tmp_path, "val") == rows(folder, "val")


@pytest.mark.parametrize("when", ["before the scores", "before best", "torn row"])
def test_a_run_killed_while_keeping_scores_ends_the_same(tmp_path, unbroken, monkeypatch, when):
    folder, wanted, result = unbroken

    def die(*words):
        raise SystemExit("killed here")

    monkeypatch.setattr(record, "update_best" if when == "before best" else "add_scores", die)
    with pytest.raises(SystemExit, match="killed here"):
        train(make_components(), make_run_dir(tmp_path), **settings())
    monkeypatch.undo()
    if when == "torn row":
        with (tmp_path / "metrics.jsonl").open("a") as log:
            log.write('{"step": 4, "spl')
    again = make_components()
    assert train(again, make_run_dir(tmp_path), **settings())["best_step"] == result["best_step"]
    assert weights_hash(again.model) == wanted
    assert rows(tmp_path, "train", "val") == rows(folder, "train", "val")
    assert (tmp_path / "eval/summary.json").read_text() == (folder / "eval/summary.json").read_text()


@pytest.fixture(scope="module")
def start():
    """Starts trainings in fresh processes, forked from a server that has imported torch once; ends what is left of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_training", "torch.utils.tensorboard", "tqdm", "yaml", "cv2", "torch._dynamo"])
    started = []

    def begin(folder: Path, workers: int, steps: int):
        child = context.Process(target=train_in_child, args=(folder, workers, steps))
        child.start()
        started.append(child)
        return child

    yield begin
    for child in started:
        if child.is_alive():
            end(child)


def end(child):
    """Kills a training, then its data workers, which outlive it by seconds and would keep ``join`` waiting."""
    child.kill()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.join(60)


def wait_for(ready, child, seconds=60):
    until = time.time() + seconds
    while not ready() and child.is_alive():
        assert time.time() < until, "the training process made no progress"
        time.sleep(0.005)


@pytest.mark.crash
@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_to_the_whole_group_saves_and_exits_143(tmp_path, start, workers):
    child = start(tmp_path, workers, 4000)
    wait_for(lambda: list_checkpoints(tmp_path) and list_checkpoints(tmp_path)[-1] >= 6, child)
    os.killpg(child.pid, signal.SIGTERM)
    child.join(60)
    assert child.exitcode == 143
    last = latest_valid(tmp_path)[0]
    assert last == read_pointer(tmp_path, "last") and last is not None and read_trainer(last)["step"] == int(last.name)


@pytest.mark.crash
def test_killed_again_and_again_equals_unbroken(tmp_path, start):
    """SIGKILL at random moments: every restart goes on from a valid checkpoint and the end is the unbroken run's."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    child = start(whole, 0, 60)
    child.join(120)
    rng, kills = np.random.default_rng(0), 0
    while not (broken / "hash").exists():
        child = start(broken, kills % 3, 60)
        before = list_checkpoints(broken)[-1:] or [-1]
        wait_for(lambda before=before: list_checkpoints(broken)[-1:] > before, child)
        time.sleep(rng.uniform(0, 0.5))
        end(child)
        kills += child.exitcode == -signal.SIGKILL
        assert latest_valid(broken)[0] is not None
    assert kills > 3
    assert (broken / "hash").read_text() == (whole / "hash").read_text()
    assert rows(broken, "train", "val") == rows(whole, "train", "val")


def test_accumulated_parts_equal_the_joint_batch(tmp_path):
    class Uneven(ToyData):
        """Every fourth label is wholly ignored, so components differ in weight and one part of two has next to none."""

        def __getitem__(self, index):
            sample = super().__getitem__(index)
            if index % 4 != 0:
                sample.label[: 4 + 8 * (index % 3)] = 255
            return sample

    def weights(folder, **words):
        components = make_components(model=None, train_set=Uneven(9))
        torch.manual_seed(3)
        components.model = Toy(norm=False, drop=0.0)
        train(components, make_run_dir(tmp_path / folder), **settings(steps=4, **words))
        return torch.cat([p.detach().flatten() for p in components.model.parameters()])

    joint = weights("joint", batch_size=6, grad_accum_steps=1)
    assert torch.allclose(weights("parts", batch_size=2, grad_accum_steps=3), joint, atol=1e-6)
    assert torch.allclose(weights("single", batch_size=1, grad_accum_steps=6), joint, atol=1e-6)

    class MeanOfMeans(ToyLoss):
        def terms(self, logits, label, weight=None):
            return super().terms(logits, label) / (1 if weight is None else 3)

    components = make_components(train_set=Uneven(9), loss=MeanOfMeans())
    torch.manual_seed(3)
    components.model = Toy(norm=False, drop=0.0)
    train(components, make_run_dir(tmp_path / "naive"), **settings(steps=4, batch_size=2, grad_accum_steps=3))
    naive = torch.cat([p.detach().flatten() for p in components.model.parameters()])
    assert not torch.allclose(naive, joint, atol=1e-3)  # so the data above can tell the two apart


def test_evaluating_and_saving_leave_no_trace_in_the_weights(tmp_path, unbroken):
    components = make_components()
    train(components, make_run_dir(tmp_path), **settings(eval_every=12, save_every=None, num_val_images=2))
    assert weights_hash(components.model) == unbroken[1]
    assert components.model.training


class BadLoss(ToyLoss):
    """Gives NaN from its n-th call on."""

    def __init__(self, when: int):
        super().__init__()
        self.when, self.calls = when, 0

    def terms(self, logits, label, weight=None):
        self.calls += 1
        return super().terms(logits, label, weight) * (float("nan") if self.calls >= self.when else 1.0)


def test_a_loss_that_is_not_finite_names_the_pictures_and_touches_no_weight(tmp_path):
    good = make_components()
    train(
        good, make_run_dir(tmp_path / "good"), **settings(steps=12, save_every=2, eval_every=12, keep_checkpoints=9, log_every=100)
    )
    bad = make_components(loss=BadLoss(when=3))
    with pytest.raises(Diverged, match="loss is nan at step 3, on toy") as stopped:
        train(bad, make_run_dir(tmp_path / "bad"), **settings(save_every=2, eval_every=12, log_every=100))
    assert len(re.findall(r"toy\d+", str(stopped.value))) == 4
    wanted = read_model(tmp_path / "good/checkpoints/2")[0]
    for name, parameter in bad.model.named_parameters():
        assert torch.equal(parameter, wanted[name]), name
    assert list_checkpoints(tmp_path / "bad")[-1] == 2


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path):
    class Root(Toy):
        def forward(self, x):
            logits = super().forward(x)
            return logits._replace(main=logits.main + (self.head.weight.sum() * 0).sqrt())  # 0 forwards, infinite backwards

    components = make_components(model=Root())
    with pytest.raises(Diverged, match="gradient's norm is (nan|inf) at step 1"):
        train(components, make_run_dir(tmp_path), **settings())
    before = read_model(tmp_path / "checkpoints/0")[0]
    assert all(torch.equal(p, before[name]) for name, p in components.model.named_parameters())


def test_rates_follow_the_schedule_and_rows_say_so(unbroken):
    for row in rows(unbroken[0], "train"):
        assert row["lr/0"] == pytest.approx(0.05 * (1 - (row["step"] - 1) / 12) ** 0.9)
        assert row["loss_main"] > 0 and row["loss_aux"] > 0
    assert [row["step"] for row in rows(unbroken[0], "train")] == [5, 10, 12]
    assert [row["step"] for row in rows(unbroken[0], "val")] == [4, 8, 12]
    assert {"mIoU", "mAcc", "aAcc", "loss", "IoU/road"} <= rows(unbroken[0], "val")[0].keys()
    assert [row["step"] for row in rows(unbroken[0], "time")] == [5, 10, 12]


def test_clip_bounds_the_step(tmp_path):
    components = make_components(model=Toy(norm=False))
    components.make_optimizer = lambda net: torch.optim.SGD(net.parameters(), lr=1.0)
    components.make_schedule = lambda total: lambda step: 1.0
    train(components, make_run_dir(tmp_path), **settings(steps=1, clip_grad_norm=1e-3))
    before = read_model(tmp_path / "checkpoints/0")[0]
    moved = math.sqrt(sum(float((p - before[name]).detach().square().sum()) for name, p in components.model.named_parameters()))
    assert moved == pytest.approx(1e-3, rel=1e-2)
    assert rows(tmp_path, "train")[0]["grad_norm"] > 1e-2


def test_step_zero_is_saved_before_the_first_picture_is_read(tmp_path):
    class Watching(ToyData):
        def __getitem__(self, index):
            assert latest_valid(tmp_path)[0] == tmp_path / "checkpoints/0"
            return super().__getitem__(index)

    train(make_components(train_set=Watching(4)), make_run_dir(tmp_path), **settings(steps=1))


def test_kept_are_the_newest_and_the_best(tmp_path, unbroken):
    folder, _, result = unbroken
    assert result["best_step"] == max(rows(folder, "val"), key=lambda row: row["mIoU"])["step"]
    assert set(list_checkpoints(folder)) == {9, 12, result["best_step"]}
    assert read_model(folder)[1]["step"] == result["best_step"]
    summary = json.loads((folder / "eval/summary.json").read_text())
    assert summary["miou"] == result["miou"] and summary["checkpoint_sha256"] == read_model(folder)[1]["sha256"]


def test_precisions_train_and_keep_full_precision_weights(tmp_path, unbroken):
    components = make_components()
    result = train(components, make_run_dir(tmp_path), **settings(precision="bf16"))
    assert {p.dtype for p in components.model.parameters()} == {torch.float32}
    assert weights_hash(components.model) != unbroken[1] and result["loss"] == pytest.approx(unbroken[2]["loss"], rel=0.2)


def test_epochs_are_whole_steps_that_cover_the_data(tmp_path):
    result = train(make_components(), make_run_dir(tmp_path), **settings(steps=None, epochs=1.5, batch_size=2, grad_accum_steps=2))
    assert (result["steps"], result["images_seen"]) == (4, 16)  # 15 images wanted


@pytest.mark.parametrize("length", [{"steps": None, "epochs": None}, {"steps": 3, "epochs": 1.0}], ids=["neither", "both"])
def test_the_length_is_given_once(tmp_path, length):
    with pytest.raises(ConfigError, match="steps=<number> or epochs=<number>"):
        train(make_components(), make_run_dir(tmp_path), **settings(**length))


def test_a_checkpoint_of_another_model_or_a_longer_run_is_refused(tmp_path, unbroken):
    folder = unbroken[0]
    run = make_run_dir(tmp_path)
    run.resume_from = folder / "checkpoints/12"
    with pytest.raises(ConfigError, match="another model"):
        train(make_components(model=Toy(num_classes=5)), run, **settings())
    with pytest.raises(ConfigError, match="beyond the end of this run of 8 steps"):
        train(make_components(), run, **settings(steps=8))


def test_a_fork_goes_on_from_the_other_run_and_leaves_it_alone(tmp_path, unbroken):
    folder = unbroken[0]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run = make_run_dir(tmp_path)
    run.resume_from = folder / "checkpoints/9"
    components = make_components()
    result = train(components, run, **settings())
    assert result["steps"] == 12 and list_checkpoints(tmp_path) == [9, 12]
    assert weights_hash(components.model) == unbroken[1]
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_damaged_newest_checkpoint_is_passed_over_and_written_again(tmp_path, unbroken):
    with pytest.raises(KeyboardInterrupt):
        train(make_components(train_set=Signalling(signal.SIGINT, 34)), make_run_dir(tmp_path), **settings())
    newest = latest_valid(tmp_path)[0]
    assert newest is not None and newest.name == "9"
    broken = bytearray((newest / "trainer.pt").read_bytes())
    broken[len(broken) // 2] ^= 1
    (newest / "trainer.pt").write_bytes(broken)
    again = make_components()
    run = make_run_dir(tmp_path)
    assert run.resume_from is not None and run.resume_from.name == "8"
    train(again, run, **settings())
    assert weights_hash(again.model) == unbroken[1]


def test_accumulating_sizes_that_differ_needs_a_loss_at_label_size(tmp_path):
    components = make_components(train_set=ToyData(6, vary=True), augment=None)
    with pytest.raises(ConfigError, match=r"several sizes .*loss.resolution=label"):
        train(components, make_run_dir(tmp_path / "no"), **settings(steps=2, batch_size=1, grad_accum_steps=3))
    components.loss.resolution = "label"
    assert train(components, make_run_dir(tmp_path / "yes"), **settings(steps=2, batch_size=1, grad_accum_steps=3))["steps"] == 2


def test_the_optimiser_keeps_its_moments_and_takes_rates_from_the_configuration(tmp_path, unbroken):
    run = make_run_dir(tmp_path)
    run.resume_from = source = unbroken[0] / "checkpoints/9"
    moments = read_trainer(source)["optimizer"]["state"][0]["momentum_buffer"]
    assert moments.abs().sum() > 0
    components = make_components()
    components.make_optimizer = lambda net: torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    train(components, run, **settings(log_every=1))
    assert rows(tmp_path, "train")[0]["lr/0"] == pytest.approx(0.2 * (1 - 9 / 12) ** 0.9)


def test_an_all_ignored_batch_trains_on(tmp_path):
    class Blank(ToyData):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return Sample(sample.image, np.full_like(sample.label, 255), sample.name)

    components = make_components(model=Toy(norm=False), train_set=Blank(4), augment=hflip)
    train(components, make_run_dir(tmp_path), **settings(steps=2))
    before = read_model(tmp_path / "checkpoints/0")[0]
    assert all(torch.equal(p, before[name]) for name, p in components.model.named_parameters())


def test_frozen_norms_keep_their_statistics_through_evaluation(tmp_path):
    components = make_components()
    norm = components.model.get_submodule("backbone.1")
    assert isinstance(norm, nn.BatchNorm2d)
    kept: nn.Module = norm
    kept.train = lambda mode=True: kept  # type: ignore[method-assign]
    kept.training = False
    train(components, make_run_dir(tmp_path), **settings(steps=4))
    assert not norm.training and torch.equal(norm.running_mean, torch.zeros(8))  # type: ignore[arg-type]
