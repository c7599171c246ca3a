"""Checkpoints: what they hold, that they are whole or absent, and that damage is seen before use."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from toy_training import INFO, Toy

from segzoo import io as files
from segzoo.checkpoints import serialization as checkpoint
from segzoo.checkpoints import store as steps
from segzoo.checkpoints.serialization import TRAINER, add_scores, read_model, read_scores, read_trainer, save_checkpoint
from segzoo.checkpoints.store import (
    MANIFEST,
    MODEL,
    CheckpointError,
    delete_old,
    latest_valid,
    set_pointer,
    update_best,
    verify_checkpoint,
)
from segzoo.types import DatasetInfo

CONFIG = {"model": {"name": "toy", "bins": (1, 2)}, "data": {"label_map": {0: 1, -1: 255}}, "note": None}
STATE = {"step": 3, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}, "rng": torch.get_rng_state()}


def write(run, step, seed=0):
    torch.manual_seed(seed)
    model = Toy().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, save_checkpoint(run, step, model, STATE, CONFIG, INFO, {})


def test_what_is_saved_is_read_back(tmp_path):
    model, folder = write(tmp_path, 3)
    state, meta = read_model(folder)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    fresh = Toy()
    fresh.load_state_dict(state)
    assert meta["format"] == steps.FORMAT and meta["step"] == 3 and meta["widths"] == {}
    assert meta["config"] == {"model": {"name": "toy", "bins": [1, 2]}, "data": {"label_map": {0: 1, -1: 255}}, "note": None}
    assert DatasetInfo.from_dict(meta["dataset"]) == INFO
    assert meta["sha256"] == json.loads((folder / MANIFEST).read_text())["files"][MODEL]["sha256"]
    trainer = read_trainer(folder)
    assert torch.equal(trainer["rng"], STATE["rng"]) and trainer["step"] == 3


def test_tied_and_channels_last_weights_are_stored(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(3, 4, 3)
            self.two = self.one

    model = Tied().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = read_model(save_checkpoint(tmp_path, 0, model, {}, {}, INFO, {}))[0]
    assert torch.equal(state["one.weight"], state["two.weight"])


def test_scores_stand_in_the_manifest_and_nowhere_else(tmp_path):
    _, folder = write(tmp_path, 3)
    before = (folder / MODEL).read_bytes()
    assert read_scores(folder) is None
    add_scores(folder, {"miou": 0.5})
    assert read_scores(folder) == {"miou": 0.5} and verify_checkpoint(folder) == []
    assert (folder / MODEL).read_bytes() == before and b"miou" not in before


@tuned(max_examples=30, deadline=None)
@given(st.sampled_from([MODEL, TRAINER]), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_seen_and_the_previous_step_chosen(tmp_path_factory, name, where, bit):
    run = tmp_path_factory.mktemp("run")
    write(run, 1)
    _, folder = write(run, 2)
    content = bytearray((folder / name).read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    (folder / name).write_bytes(content)
    chosen, faults = latest_valid(run)
    assert chosen == run / "checkpoints/1"
    assert len(faults) == 1 and name in faults[0] and "checksum differs" in faults[0]
    with pytest.raises(CheckpointError, match="checksum differs"):
        read_model(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:100]), "holds 100 bytes where"),
        (lambda folder: (folder / TRAINER).unlink(), "is missing"),
        (lambda folder: (folder / MANIFEST).unlink(), "is unfinished: it has no manifest"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "names no files"),
        (lambda folder: (folder / MANIFEST).write_text('{"format": 99, "files": {}}'), "update segzoo"),
    ],
    ids=["cut", "file gone", "no manifest", "manifest cut", "manifest strange", "newer format"],
)
def test_damage_is_named_and_passed_over(tmp_path, damage, message):
    write(tmp_path, 1)
    _, folder = write(tmp_path, 2)
    damage(folder)
    assert any(message in fault for fault in verify_checkpoint(folder))
    assert latest_valid(tmp_path)[0] == tmp_path / "checkpoints/1"
    with pytest.raises(CheckpointError, match=message):
        read_model(folder)


def test_newest_is_by_number_not_by_name_or_time(tmp_path):
    for step in (9, 100, 20):
        write(tmp_path, step)
    (tmp_path / "checkpoints/notes").mkdir()
    assert steps.list_checkpoints(tmp_path) == [9, 20, 100]
    assert latest_valid(tmp_path)[0] == tmp_path / "checkpoints/100"


@pytest.mark.parametrize("call", range(1, 5))
def test_a_failing_replace_leaves_no_half_checkpoint(tmp_path, monkeypatch, call):
    """Whichever of the four moves fails (model, trainer, manifest, last), the older checkpoint stays the newest valid one or the
    new one is whole, and no temporary file is left."""
    write(tmp_path, 1)
    made = 0

    def failing(source, target):
        nonlocal made
        made += 1
        if made == call:
            raise OSError(errno.EIO, "the disk went away")
        real(source, target)

    real = os.replace
    monkeypatch.setattr(files.os, "replace", failing)
    with pytest.raises(OSError, match="went away"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert latest_valid(tmp_path)[0] == tmp_path / ("checkpoints/1" if call < 4 else "checkpoints/2")
    assert steps.read_pointer(tmp_path, "last") == tmp_path / "checkpoints/1"
    assert [path for path in tmp_path.rglob("*.tmp.*")] == []
    write(tmp_path, 2)
    assert latest_valid(tmp_path)[0] == tmp_path / "checkpoints/2"


def test_a_full_disk_is_a_plain_error_and_older_checkpoints_stay(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(file):
        file.write(b"a few bytes")
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "checkpoints/1" / MODEL
    before = target.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(target, full)
    assert target.read_bytes() == before and list(target.parent.glob("*.tmp.*")) == []


def test_what_the_disk_changed_while_writing_is_noticed(tmp_path, monkeypatch):
    def wrong(path, write):
        files.write_atomically(path, write)
        if path.name == MODEL:
            path.write_bytes(path.read_bytes()[:-1] + b"x")

    monkeypatch.setattr(checkpoint, "write_atomically", wrong)
    with pytest.raises(CheckpointError, match="reads back differently"):
        write(tmp_path, 1)


def test_temporaries_of_a_killed_process_are_swept(tmp_path):
    _, folder = write(tmp_path, 1)
    stale = folder / f"{MODEL}.tmp.12345"
    stale.write_bytes(b"half")
    keep = folder / "my.tmp.notes"
    keep.write_text("a user's own file")
    files.remove_stale_temp_files(tmp_path)
    assert not stale.exists() and keep.exists() and verify_checkpoint(folder) == []


def test_old_steps_go_but_never_best_or_last(tmp_path, capsys, monkeypatch):
    for step in range(6):
        write(tmp_path, step)
    set_pointer(tmp_path, "best", 1)
    set_pointer(tmp_path, "last", 5)
    (tmp_path / "checkpoints/3" / MANIFEST).unlink()
    delete_old(tmp_path, keep=2)
    assert steps.list_checkpoints(tmp_path, complete=False) == [1, 4, 5]
    monkeypatch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(OSError("busy")))
    delete_old(tmp_path, keep=1)
    assert "an old checkpoint stays: busy" in capsys.readouterr().err
    assert latest_valid(tmp_path)[0] == tmp_path / "checkpoints/5"


def test_best_is_the_highest_score_and_the_earliest_of_equals(tmp_path):
    assert update_best(tmp_path) is None
    for step, miou in ((1, 0.2), (2, 0.5), (3, 0.5), (4, 0.1)):
        add_scores(write(tmp_path, step)[1], {"miou": miou})
    assert update_best(tmp_path) == 2 and (tmp_path / "checkpoints/best").read_text() == "2\n"
    assert read_model(tmp_path)[1]["step"] == 2
    add_scores(write(tmp_path, 5)[1], {"miou": 0.05, "stages": 1})
    assert update_best(tmp_path) == 5, "a network that was pruned further comes first, whatever it scores"


def test_read_model_takes_run_step_and_file(tmp_path):
    _, folder = write(tmp_path / "run", 7)
    with pytest.raises(CheckpointError, match="no best checkpoint yet"):
        read_model(tmp_path / "run")
    set_pointer(tmp_path / "run", "best", 7)
    lone = shutil.copy(folder / MODEL, tmp_path / "moved.safetensors")
    found = [read_model(path) for path in (tmp_path / "run", folder, folder / MODEL, str(lone))]
    assert all(meta["step"] == 7 and meta["sha256"] == found[0][1]["sha256"] for _, meta in found)


def test_what_is_no_checkpoint_is_refused_with_a_remedy(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "bare.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"<!doctype html>")
    (tmp_path / "empty").mkdir()
    newer = {"segzoo": json.dumps({"format": steps.FORMAT + 1})}
    save_file({"w": torch.ones(1)}, tmp_path / "newer.safetensors", newer)
    for name, message in (
        ("bare.safetensors", "init.ckpt="),
        ("junk.safetensors", "cannot be read as safetensors"),
        ("empty", "neither a run directory nor a checkpoint directory"),
        ("nowhere", "does not exist"),
        ("newer.safetensors", "update segzoo"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_model(tmp_path / name)


def test_a_configuration_holds_plain_values_only(tmp_path):
    with pytest.raises(TypeError, match="plain values only"):
        save_checkpoint(tmp_path, 0, Toy(), {}, {"path": tmp_path}, INFO, {})
    assert latest_valid(tmp_path)[0] is None
