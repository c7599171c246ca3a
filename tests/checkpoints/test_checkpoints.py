"""Checkpoints: contents, crash-safe writing, and detection of damage."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from toy_training import INFO, Toy

from segzoo import io as segzoo_io
from segzoo.checkpoints import schema, store, writing
from segzoo.checkpoints.schema import MODEL, TRAINER, CheckpointError
from segzoo.checkpoints.serialization import add_scores, read_model, read_scores, read_trainer
from segzoo.checkpoints.store import MANIFEST, delete_old, latest_valid, set_pointer, update_best, verify_checkpoint
from segzoo.checkpoints.writing import save_checkpoint
from segzoo.types import DatasetInfo

CONFIG = {"model": {"name": "toy", "bins": (1, 2)}, "data": {"label_map": {0: 1, -1: 255}}, "note": None}
STATE = {"step": 3, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}, "rng": torch.get_rng_state()}


def save(run, step, seed=0):
    torch.manual_seed(seed)
    model = Toy().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, save_checkpoint(run, step, model, STATE, CONFIG, INFO, {})


def test_everything_saved_is_read_back(tmp_path):
    model, directory = save(tmp_path, 3)
    state, meta = read_model(directory)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    fresh = Toy()
    fresh.load_state_dict(state)
    assert meta["format"] == schema.FORMAT and meta["step"] == 3 and meta["widths"] == {}
    assert meta["config"] == {"model": {"name": "toy", "bins": [1, 2]}, "data": {"label_map": {0: 1, -1: 255}}, "note": None}
    assert DatasetInfo.from_dict(meta["dataset"]) == INFO
    assert meta["sha256"] == json.loads((directory / MANIFEST).read_text())["files"][MODEL]["sha256"]
    trainer = read_trainer(directory)
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


def test_scores_are_stored_in_the_manifest_only(tmp_path):
    _, directory = save(tmp_path, 3)
    before = (directory / MODEL).read_bytes()
    assert read_scores(directory) is None
    add_scores(directory, {"miou": 0.5})
    assert read_scores(directory) == {"miou": 0.5} and verify_checkpoint(directory) == []
    assert (directory / MODEL).read_bytes() == before and b"miou" not in before


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.sampled_from([MODEL, TRAINER]), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_one_flipped_bit_is_detected_and_the_previous_checkpoint_used(tmp_path_factory, name, position, bit):
    run = tmp_path_factory.mktemp("run")
    save(run, 1)
    _, directory = save(run, 2)
    content = bytearray((directory / name).read_bytes())
    content[int(position * len(content))] ^= 1 << bit
    (directory / name).write_bytes(content)
    latest, errors = latest_valid(run)
    assert latest == run / "checkpoints/1"
    assert len(errors) == 1 and name in errors[0] and "checksum differs" in errors[0]
    with pytest.raises(CheckpointError, match="checksum differs"):
        read_model(directory)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda directory: (directory / MODEL).write_bytes((directory / MODEL).read_bytes()[:100]), "holds 100 bytes, but"),
        (lambda directory: (directory / TRAINER).unlink(), "is missing"),
        (lambda directory: (directory / MANIFEST).unlink(), "is unfinished: it has no manifest"),
        (lambda directory: (directory / MANIFEST).write_text("{"), "cannot be read"),
        (lambda directory: (directory / MANIFEST).write_text("[]"), "names no files"),
        (lambda directory: (directory / MANIFEST).write_text('{"format": 99, "files": {}}'), "update segzoo"),
        (lambda directory: (directory / MANIFEST).write_text('{"format": 1, "files": {}}'), "format 1 of an earlier segzoo"),
    ],
    ids=["truncated", "file missing", "no manifest", "manifest truncated", "manifest invalid", "newer format", "older format"],
)
def test_damage_is_reported_and_the_checkpoint_skipped(tmp_path, damage, message):
    save(tmp_path, 1)
    _, directory = save(tmp_path, 2)
    damage(directory)
    assert any(message in error for error in verify_checkpoint(directory))
    assert latest_valid(tmp_path)[0] == tmp_path / "checkpoints/1"
    with pytest.raises(CheckpointError, match=message):
        read_model(directory)


def test_newest_is_by_step_not_by_name_or_time(tmp_path):
    for step in (9, 100, 20):
        save(tmp_path, step)
    (tmp_path / "checkpoints/notes").mkdir()
    assert store.list_checkpoints(tmp_path) == [9, 20, 100]
    assert latest_valid(tmp_path)[0] == tmp_path / "checkpoints/100"


@pytest.mark.parametrize("call", range(1, 5))
def test_a_failed_rename_leaves_no_partial_checkpoint(tmp_path, monkeypatch, call):
    """Fail each of the four renames: model, trainer, manifest and last.

    Then either the older checkpoint stays the newest valid one, or the new one is complete. No temporary file is left.
    """
    save(tmp_path, 1)
    calls = 0

    def failing(source, target):
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.EIO, "the disk went away")
        real(source, target)

    real = os.replace
    monkeypatch.setattr(segzoo_io.os, "replace", failing)
    with pytest.raises(OSError, match="went away"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert latest_valid(tmp_path)[0] == tmp_path / ("checkpoints/1" if call < 4 else "checkpoints/2")
    assert store.read_pointer(tmp_path, "last") == tmp_path / "checkpoints/1"
    assert [path for path in tmp_path.rglob("*.tmp.*")] == []
    save(tmp_path, 2)
    assert latest_valid(tmp_path)[0] == tmp_path / "checkpoints/2"


def test_a_full_disk_raises_oserror_and_keeps_older_checkpoints(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(file):
        file.write(b"a few bytes")
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "checkpoints/1" / MODEL
    before = target.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        segzoo_io.write_atomically(target, full)
    assert target.read_bytes() == before and list(target.parent.glob("*.tmp.*")) == []


def test_a_disk_that_is_full_at_the_trainer_state_is_named(tmp_path, monkeypatch):
    """torch.save raises an error of its own, which hides that of the disk."""

    class Full(io.BytesIO):
        def write(self, content):
            if self.tell() > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    monkeypatch.setattr(writing, "write_atomically", lambda path, write: write(Full()))
    with pytest.raises(OSError, match="No space left"):
        writing._write_hashed(tmp_path / TRAINER, lambda file: torch.save({"a": torch.zeros(10_000)}, file))


def test_corruption_while_writing_is_detected(tmp_path, monkeypatch):
    def corrupt(path, write):
        segzoo_io.write_atomically(path, write)
        if path.name == MODEL:
            path.write_bytes(path.read_bytes()[:-1] + b"x")

    monkeypatch.setattr(writing, "write_atomically", corrupt)
    with pytest.raises(CheckpointError, match="reads back differently"):
        save(tmp_path, 1)
    assert store.read_pointer(tmp_path, "last") is None


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    _, directory = save(tmp_path, 1)
    stale, names = directory / "0a1b2c3d.tmp.12345", []
    stale.write_bytes(b"half")
    users_files = [directory / "my.tmp.notes", tmp_path / "results.csv.tmp.4711", tmp_path / "notes.tmp.1"]
    for path in users_files:
        path.write_text("notes")
    segzoo_io.remove_stale_temp_files(tmp_path)
    assert not stale.exists() and all(path.exists() for path in users_files) and verify_checkpoint(directory) == []
    segzoo_io.write_atomically(tmp_path / "new.json", lambda file: names.append(Path(file.name)))
    names[0].write_bytes(b"half")  # what a process that is killed now leaves behind
    segzoo_io.remove_stale_temp_files(tmp_path)
    assert not names[0].exists() and (tmp_path / "new.json").exists()


def test_old_checkpoints_are_deleted_except_best_and_last(tmp_path, capsys, monkeypatch):
    for step in range(6):
        save(tmp_path, step)
    set_pointer(tmp_path, "best", 1)
    set_pointer(tmp_path, "last", 5)
    (tmp_path / "checkpoints/3" / MANIFEST).unlink()
    delete_old(tmp_path, keep=2)
    assert store.list_checkpoints(tmp_path, complete=False) == [1, 4, 5]
    monkeypatch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(OSError("busy")))
    delete_old(tmp_path, keep=1)
    assert "could not delete an old checkpoint: busy" in capsys.readouterr().err
    assert store.list_checkpoints(tmp_path) == [1, 5], "a directory that is left behind is no checkpoint"
    assert latest_valid(tmp_path)[0] == tmp_path / "checkpoints/5"


def test_best_is_the_highest_score_and_the_earliest_of_equals(tmp_path):
    assert update_best(tmp_path) is None
    for step, miou in ((1, 0.2), (2, 0.5), (3, 0.5), (4, 0.1)):
        add_scores(save(tmp_path, step)[1], {"miou": miou})
    assert update_best(tmp_path) == 2 and (tmp_path / "checkpoints/best").read_text() == "2\n"
    assert read_model(tmp_path)[1]["step"] == 2
    add_scores(save(tmp_path, 5)[1], {"miou": 0.05, "stages": 1})
    assert update_best(tmp_path) == 5, "a network that was pruned further ranks first, whatever its scores"


def test_read_model_accepts_run_checkpoint_and_file(tmp_path):
    _, directory = save(tmp_path / "run", 7)
    with pytest.raises(CheckpointError, match="no best checkpoint yet"):
        read_model(tmp_path / "run")
    set_pointer(tmp_path / "run", "best", 7)
    moved = shutil.copy(directory / MODEL, tmp_path / "moved.safetensors")
    results = [read_model(path) for path in (tmp_path / "run", directory, directory / MODEL, str(moved))]
    assert all(meta["step"] == 7 and meta["sha256"] == results[0][1]["sha256"] for _, meta in results)


def test_unusable_paths_are_rejected_with_a_hint(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "bare.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"<!doctype html>")
    (tmp_path / "empty").mkdir()
    newer, older = ({"segzoo": json.dumps({"format": schema.FORMAT + change})} for change in (1, -1))
    save_file({"w": torch.ones(1)}, tmp_path / "older.safetensors", older)
    save_file({"w": torch.ones(1)}, tmp_path / "newer.safetensors", newer)
    for name, message in (
        ("bare.safetensors", "init.ckpt="),
        ("junk.safetensors", "cannot be read as safetensors"),
        ("empty", "neither a run directory nor a checkpoint directory"),
        ("missing", "does not exist"),
        ("newer.safetensors", "update segzoo"),
        ("older.safetensors", "Train the model again, or load it with the version that wrote it"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_model(tmp_path / name)


def test_a_configuration_may_hold_plain_values_only(tmp_path):
    with pytest.raises(TypeError, match="plain values only"):
        save_checkpoint(tmp_path, 0, Toy(), {}, {"path": tmp_path}, INFO, {})
    assert latest_valid(tmp_path)[0] is None
