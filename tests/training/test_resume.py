"""Stopped, killed and forked runs resume exactly."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_training import (
    INFO,
    SignalingData,
    Toy,
    ToyData,
    balance,
    make_components,
    make_run_dir,
    read_rows,
    settings,
    train,
    train_in_child,
    weights_hash,
)

from segzoo.checkpoints.serialization import read_trainer
from segzoo.checkpoints.store import latest_valid, list_checkpoints, read_pointer
from segzoo.registry import ConfigError
from segzoo.training import results


@pytest.fixture
def heeded(number):
    """Undo that background jobs of a shell ignore SIGINT, and those of nohup SIGHUP."""
    before = signal.getsignal(number)
    if before == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
    yield
    signal.signal(number, before)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(number, marks=pytest.mark.integration) for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)),
    ],
)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(tmp_path, uninterrupted, heeded, number):
    directory, expected_hash, result = uninterrupted
    before = signal.getsignal(number)
    components = make_components(train_set=SignalingData(number, when=26))  # in the seventh batch of four, between two log rows
    with pytest.raises((KeyboardInterrupt, SystemExit), match="step 7" if number == signal.SIGINT else "143"):
        train(components, make_run_dir(tmp_path), **settings())
    assert list_checkpoints(tmp_path)[-1] == 7 and read_pointer(tmp_path, "last") == latest_valid(tmp_path)[0]
    assert signal.getsignal(number) == before

    torch.manual_seed(999)  # the state of the new process's generator must not matter
    again = make_components(model=Toy())
    resumed = train(again, make_run_dir(tmp_path), **settings(workers=1))
    assert weights_hash(again.model) == expected_hash
    assert read_rows(tmp_path, "train", "val") == read_rows(directory, "train", "val")
    assert resumed | {"train_minutes": 0} == result | {"train_minutes": 0}


def test_a_run_under_nohup_ignores_sighup(tmp_path, uninterrupted):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        components = make_components(train_set=SignalingData(signal.SIGHUP, when=26))
        assert train(components, make_run_dir(tmp_path), **settings())["steps"] == 12
    finally:
        signal.signal(signal.SIGHUP, before)
    assert weights_hash(components.model) == uninterrupted[1]


@pytest.mark.integration
def test_an_fp16_run_with_adam_and_accumulation_resumes_twice(tmp_path):
    def run(directory, train_set=None):
        components = make_components(train_set=train_set)
        components.make_optimizer = lambda net: torch.optim.AdamW(net.parameters(), lr=0.01)
        train(components, make_run_dir(directory), **settings(precision="fp16", batch_size=3, grad_accum_steps=2, log_every=1))
        return weights_hash(components.model), read_rows(directory, "train")

    expected = run(tmp_path / "whole")
    for when in (8, 20):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", SignalingData(signal.SIGINT, when))
    assert run(tmp_path / "stopped") == expected
    last = latest_valid(tmp_path / "stopped")[0]
    assert last is not None and read_trainer(last)["scaler"]["_growth_tracker"] == 12


@pytest.mark.integration
@pytest.mark.parametrize(("sampler", "options"), [("rare_class", {}), ("repeat_factor", {"threshold": 1.0})])
def test_a_run_with_a_sampler_resumes_exactly(tmp_path, sampler, options):
    class Striped(ToyData):
        """Toy images of which only some contain the third class."""

        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample if index < 4 else sample._replace(label=np.where(sample.label == 2, 1, sample.label).astype(np.uint8))

    class Signaling(Striped, SignalingData):
        pass

    def run(directory, train_set, workers):
        components = make_components(train_set=Striped())
        balance(components, sampler, **options).train_set = train_set
        train(components, make_run_dir(tmp_path / directory), **settings(workers=workers))
        return weights_hash(components.model), read_rows(tmp_path / directory, "train", "val")

    expected = run("whole", Striped(), 0)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", Signaling(signal.SIGINT, when=26), 0)
    assert run("stopped", Striped(), 2) == expected


def test_a_signal_stops_an_evaluation_which_the_resumed_run_repeats(tmp_path, uninterrupted):
    directory, expected_hash, _ = uninterrupted
    val_set = SignalingData(signal.SIGTERM, when=1, count=3, first=100, vary=True)
    with pytest.raises(SystemExit) as exit_info:
        train(make_components(val_set=val_set), make_run_dir(tmp_path), **settings())
    assert exit_info.value.code == 143 and val_set.reads == 1
    assert list_checkpoints(tmp_path)[-1] == 4 and read_rows(tmp_path, "val") == []
    again = make_components()
    train(again, make_run_dir(tmp_path), **settings())
    assert weights_hash(again.model) == expected_hash
    assert read_rows(tmp_path, "val") == read_rows(directory, "val")


@pytest.mark.integration
@pytest.mark.parametrize("when", ["before the scores", "before best", "truncated row"])
def test_a_run_killed_while_storing_scores_ends_the_same(tmp_path, uninterrupted, monkeypatch, when):
    directory, expected_hash, result = uninterrupted

    def die(*args):
        raise SystemExit("killed here")

    monkeypatch.setattr(results, "update_best" if when == "before best" else "add_scores", die)
    with pytest.raises(SystemExit, match="killed here"):
        train(make_components(), make_run_dir(tmp_path), **settings())
    monkeypatch.undo()
    if when == "truncated row":
        with (tmp_path / "metrics.jsonl").open("a") as log:
            log.write('{"step": 4, "spl')
    again = make_components()
    assert train(again, make_run_dir(tmp_path), **settings())["best_step"] == result["best_step"]
    assert weights_hash(again.model) == expected_hash
    assert read_rows(tmp_path, "train", "val") == read_rows(directory, "train", "val")
    assert (tmp_path / "eval/summary.json").read_text() == (directory / "eval/summary.json").read_text()


@pytest.fixture(scope="module")
def start_training():
    """Start trainings in processes forked from a server that has imported torch.

    Processes still running at the end are killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_training", "torch.utils.tensorboard", "tqdm", "yaml", "cv2", "torch._dynamo"])
    children = []

    def start(directory: Path, workers: int, steps: int):
        child = context.Process(target=train_in_child, args=(directory, workers, steps))
        child.start()
        children.append(child)
        return child

    yield start
    for child in children:
        if child.is_alive():
            kill(child)


def kill(child):
    """Kill a training and its data workers.

    The workers would outlive it by seconds and keep ``join`` waiting.
    """
    child.kill()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.join(60)


def wait_for(ready, child, seconds=60):
    deadline = time.time() + seconds
    while not ready() and child.is_alive():
        assert time.time() < deadline, "the training process made no progress"
        time.sleep(0.005)


@pytest.mark.crash
@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_to_the_process_group_saves_and_exits_143(tmp_path, start_training, workers):
    child = start_training(tmp_path, workers, 4000)
    wait_for(lambda: list_checkpoints(tmp_path) and list_checkpoints(tmp_path)[-1] >= 6, child)
    os.killpg(child.pid, signal.SIGTERM)
    child.join(60)
    assert child.exitcode == 143
    last = latest_valid(tmp_path)[0]
    assert last == read_pointer(tmp_path, "last") and last is not None and read_trainer(last)["step"] == int(last.name)


@pytest.mark.crash
def test_a_repeatedly_killed_run_equals_an_uninterrupted_one(tmp_path, start_training):
    """After SIGKILL at random times, every restart resumes from a valid checkpoint."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    child = start_training(whole, 0, 60)
    child.join(120)
    rng, kills = np.random.default_rng(0), 0
    while not (killed / "hash").exists():
        child = start_training(killed, kills % 3, 60)
        before = list_checkpoints(killed)[-1:] or [-1]
        wait_for(lambda before=before: list_checkpoints(killed)[-1:] > before, child)
        time.sleep(rng.uniform(0, 0.2))  # fast machines take ten steps in that time
        kill(child)
        kills += child.exitcode == -signal.SIGKILL
        assert latest_valid(killed)[0] is not None
    assert kills > 3
    assert (killed / "hash").read_text() == (whole / "hash").read_text()
    assert read_rows(killed, "train", "val") == read_rows(whole, "train", "val")


def test_a_checkpoint_of_another_model_or_a_longer_run_is_rejected(tmp_path, uninterrupted):
    directory = uninterrupted[0]
    run = make_run_dir(tmp_path)
    run.resume_from = directory / "checkpoints/12"
    with pytest.raises(ConfigError, match="another model"):
        train(make_components(model=Toy(num_classes=5)), run, **settings())
    with pytest.raises(ConfigError, match="past the end of this run of 8 steps"):
        train(make_components(), run, **settings(steps=8))


@pytest.mark.parametrize("classes", [("road", "sky", "tree"), ("sky", "road", "bush")])
def test_a_checkpoint_of_other_classes_is_rejected(tmp_path, uninterrupted, classes):
    run = make_run_dir(tmp_path)
    run.resume_from = uninterrupted[0] / "checkpoints/12"
    components = make_components()
    components.info = replace(INFO, classes=classes)
    expected = rf"learned the classes sky, road, tree, and this run has {', '.join(classes)}\. .*same names in the same order"
    with pytest.raises(ConfigError, match=expected):
        train(components, run, **settings())


def test_a_finished_run_is_extended_in_place(tmp_path, capsys):
    train(make_components(), make_run_dir(tmp_path), **settings(steps=8))
    capsys.readouterr()
    result = train(make_components(), make_run_dir(tmp_path), **settings(steps=12, log_every=1))
    assert result["steps"] == 12 and list_checkpoints(tmp_path)[-1] == 12
    assert "learning rate: 1.86e-02 at step 8, 9.97e-03 at step 10, 5.34e-03 at step 11" in capsys.readouterr().out
    assert [row["step"] for row in read_rows(tmp_path, "train")][-4:] == [9, 10, 11, 12]
    assert [row["step"] for row in read_rows(tmp_path, "val")] == [4, 8, 12]


def test_a_fork_resumes_from_another_run_and_leaves_it_unchanged(tmp_path, uninterrupted):
    directory = uninterrupted[0]
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    run = make_run_dir(tmp_path)
    run.resume_from = directory / "checkpoints/9"
    components = make_components()
    result = train(components, run, **settings())
    assert result["steps"] == 12 and list_checkpoints(tmp_path) == [9, 12]
    assert weights_hash(components.model) == uninterrupted[1]
    assert before == {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_damaged_newest_checkpoint_is_skipped_and_written_again(tmp_path, uninterrupted):
    with pytest.raises(KeyboardInterrupt):
        train(make_components(train_set=SignalingData(signal.SIGINT, 34)), make_run_dir(tmp_path), **settings())
    newest = latest_valid(tmp_path)[0]
    assert newest is not None and newest.name == "9"
    damaged = bytearray((newest / "trainer.pt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (newest / "trainer.pt").write_bytes(damaged)
    again = make_components()
    run = make_run_dir(tmp_path)
    assert run.resume_from is not None and run.resume_from.name == "8"
    train(again, run, **settings())
    assert weights_hash(again.model) == uninterrupted[1]


def test_resuming_keeps_moments_and_takes_learning_rates_from_the_configuration(tmp_path, uninterrupted):
    run = make_run_dir(tmp_path)
    run.resume_from = source = uninterrupted[0] / "checkpoints/9"
    moments = read_trainer(source)["optimizer"]["state"][0]["momentum_buffer"]
    assert moments.abs().sum() > 0
    components = make_components()
    components.make_optimizer = lambda net: torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    train(components, run, **settings(log_every=1))
    assert read_rows(tmp_path, "train")[0]["lr"] == pytest.approx(0.2 * (1 - 9 / 12) ** 0.9)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("rng"), "rng is missing"),
        (lambda state: state.update(step="9"), "step is '9', expected an integer"),
        (lambda state: state["optimizer"].pop("state"), "optimizer.state is missing"),
        (lambda state: state.update(optimizer=[]), "optimizer is [], expected a mapping"),
    ],
)
def test_a_trainer_state_of_another_program_is_rejected_by_field(tmp_path, uninterrupted, change, expected):
    checkpoint = shutil.copytree(uninterrupted[0] / "checkpoints/9", tmp_path / "foreign/checkpoints/9")
    state = read_trainer(checkpoint)
    change(state)
    torch.save(state, checkpoint / "trainer.pt")
    content, manifest = (checkpoint / "trainer.pt").read_bytes(), json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"]["trainer.pt"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    run = make_run_dir(tmp_path / "run")
    run.resume_from = checkpoint
    with pytest.raises(ConfigError, match="trainer.pt is invalid") as error:
        train(make_components(), run, **settings())
    assert expected in str(error.value)
