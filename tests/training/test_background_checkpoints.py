"""Checkpoints are written while the training continues."""

from __future__ import annotations

import errno
import threading

import pytest
import torch
from toy_training import ToyLoss, make_components, make_run_dir, settings, train, weights_hash

from segzoo.checkpoints.background import BackgroundWriter
from segzoo.checkpoints.serialization import read_model
from segzoo.checkpoints.store import delete_after, list_checkpoints
from segzoo.training import context


def replace_writing(monkeypatch, write_instead):
    """Replace the writing of each checkpoint by ``write_instead(step, write)``.

    Returns:
        The weights that each is to hold, by step.
    """
    prepare, weights = context.prepare_checkpoint, {}

    def prepare_other(run_dir, step, model, *arguments):
        weights[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        write = prepare(run_dir, step, model, *arguments)
        return lambda: write_instead(step, write)

    monkeypatch.setattr(context, "prepare_checkpoint", prepare_other)
    return weights


def test_steps_are_taken_while_a_checkpoint_is_written(tmp_path, uninterrupted, monkeypatch):
    """A checkpoint that is written three steps later holds its own weights."""
    losses, has_stepped = [], threading.Event()

    class Counting(ToyLoss):
        def total(self, terms):
            losses.append(1)
            if len(losses) == 9:
                has_stepped.set()
            return super().total(terms)

    def write_late(step, write):
        assert step != 6 or has_stepped.wait(60)
        return write()

    weights = replace_writing(monkeypatch, write_late)
    components = make_components(loss=Counting())
    train(components, make_run_dir(tmp_path), **settings(eval_every=12, save_every=6))
    stored = read_model(tmp_path / "checkpoints/6")[0]
    assert all(torch.equal(stored[name], tensor) for name, tensor in weights[6].items())
    assert weights_hash(components.model) == uninterrupted[1]
    delete_after(tmp_path, 6)
    again = make_components()
    train(again, make_run_dir(tmp_path), **settings(eval_every=12, save_every=6))
    assert weights_hash(again.model) == uninterrupted[1]


@pytest.mark.parametrize("evaluate", [False, True], ids=["before the next one", "before an evaluation ends"])
def test_a_full_disk_ends_the_run_which_can_be_resumed(tmp_path, uninterrupted, monkeypatch, evaluate):
    failing = 4 if evaluate else 2

    def fail(step, write):
        if step == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write()

    options = settings(eval_every=4, save_every=2)
    replace_writing(monkeypatch, fail)
    with pytest.raises(OSError, match="No space left on device"):
        train(make_components(), make_run_dir(tmp_path), **options)
    assert list_checkpoints(tmp_path)[-1] == failing - 2
    monkeypatch.undo()
    again = make_components()
    train(again, make_run_dir(tmp_path), **options)
    assert weights_hash(again.model) == uninterrupted[1]


def test_functions_run_in_order_and_before_the_block_ends():
    done: list[int] = []
    with BackgroundWriter() as writer:
        for number in range(20):
            writer.submit(lambda number=number: done.append(number))
    assert done == list(range(20))


def test_what_a_function_raises_is_not_lost():
    def fail():
        raise OSError("the disk went away")

    with BackgroundWriter() as writer:
        writer.submit(fail)
        with pytest.raises(OSError, match="went away"):
            writer.wait()
        writer.wait()  # it is raised once
    with pytest.raises(OSError, match="went away"), BackgroundWriter() as writer:
        writer.submit(fail)
    with pytest.raises(ValueError, match="first") as raised, BackgroundWriter() as writer:
        writer.submit(fail)
        raise ValueError("first")
    assert raised.value.__notes__ == ["A checkpoint could not be written: OSError: the disk went away"]
