"""Damaged and foreign checkpoints give one error that names the file."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import segzoo
from segzoo.checkpoints.schema import FORMAT, MODEL, TRAINER, CheckpointError
from segzoo.checkpoints.serialization import read_model, read_trainer, state_dict_hash
from segzoo.checkpoints.store import MANIFEST, latest_valid, read_pointer, set_pointer, update_best
from segzoo.checkpoints.writing import save_checkpoint
from segzoo.config.from_checkpoint import load_checkpoint
from segzoo.registry import INITS, ConfigError
from segzoo.runs.open_run import open_run
from segzoo.types import DatasetInfo
from segzoo.weights import read_weights

CONFIG: dict[str, Any] = {
    "model": {"name": "fcn_dilated", "aux_weight": 0.0},
    "backbone": {"name": "resnet50", "width": 0.125, "stem": "basic"},
    "data": {"name": "folder", "label_map": {0: 0, 7: 1}},
    "loss": {"name": "cross_entropy"},
}
INFO = DatasetInfo("own", ("background", "part"), ((0, 0, 0), (9, 9, 9)), label_map={0: 0, 7: 1})
FILES = (f"7/{MODEL}", f"7/{TRAINER}", f"7/{MANIFEST}", "best", "last")


def build_model() -> Any:
    return segzoo.create_model("fcn_dilated", {"name": "resnet50", "width": 0.125}, num_classes=2, aux_weight=0.0)


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("saved") / "run"
    torch.manual_seed(3)
    save_checkpoint(run, 7, build_model(), {"step": 7, "rng": torch.get_rng_state()}, CONFIG, INFO, {})
    set_pointer(run, "best", 7)
    return run


def init(run: Path) -> Any:
    model = build_model()
    INITS.build("checkpoint", model, INFO.classes, ckpt=str(run / "checkpoints/last"))
    return model


def resume(run: Path) -> Any:
    opened = open_run("train", "x", {}, run.parent, out=str(run.parent / "out"), resume=str(run))
    shutil.rmtree(run.parent / "out")
    assert opened.resume_from is not None
    assert torch.equal(read_trainer(opened.resume_from)["rng"], read_trainer(run.parent / "original")["rng"])
    model = build_model()
    model.load_state_dict(read_model(opened.resume_from)[0])
    return model


READERS: dict[str, Callable[[Path], Any]] = {
    "load": segzoo.load,
    "eval": lambda run: load_checkpoint(ckpt=str(run / "checkpoints/7"))[0],
    "init": init,
    "resume": resume,
}


def mutate(content: bytes, generator: random.Random) -> bytes:
    """Flip bits of one byte, or delete it."""
    position = generator.randrange(len(content))
    changed = b"" if generator.random() < 0.3 else bytes([content[position] ^ generator.randrange(1, 256)])
    return content[:position] + changed + content[position + 1 :]


@pytest.mark.integration
@pytest.mark.parametrize("count", [4, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FILES)
def test_a_mutated_byte_gives_a_checkpoint_error_or_the_same_weights(saved_run, tmp_path, name, count):
    run = shutil.copytree(saved_run, tmp_path / "run")
    shutil.copytree(saved_run / "checkpoints/7", tmp_path / "original")
    expected, file, rejected = state_dict_hash(segzoo.load(run)), run / "checkpoints" / name, 0
    content = file.read_bytes()
    for seed in range(count):
        file.write_bytes(mutate(content, random.Random(f"{name} {seed}")))
        for reader in READERS.values():
            try:
                same = state_dict_hash(reader(run)) == expected
            except ConfigError as error:
                assert "checkpoints" in str(error)
                rejected += 1
            else:
                assert same, f"seed {seed}"
    assert rejected > 0


@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_a_mutated_header_of_a_file_without_manifest_gives_no_other_error(saved_run, tmp_path, count):
    content = (saved_run / "checkpoints/7" / MODEL).read_bytes()
    header, file, errors = 8 + int.from_bytes(content[:8], "little"), tmp_path / "moved.safetensors", 0
    for seed in range(count):
        file.write_bytes(mutate(content[:header], random.Random(seed)) + content[header:])
        for reader in (read_model, read_weights):
            try:
                reader(file)
            except ConfigError as error:
                assert str(file) in str(error)
                errors += 1
    assert errors > count


def write_metadata(path: Path, saved_run: Path, text: str) -> Path:
    """Copy the saved weights with other metadata."""
    with safe_open(saved_run / "checkpoints/7" / MODEL, "pt") as file:
        save_file({name: file.get_tensor(name) for name in file.keys()}, path, {"segzoo": text})  # noqa: SIM118 (no mapping)
    return path


def changed_metadata(field: str, value: object) -> str:
    metadata: Any = {"format": FORMAT, "step": 7, "config": CONFIG, "dataset": INFO.to_dict(), "widths": {}}
    metadata = json.loads(json.dumps(metadata))
    *parents, last = field.split(".")
    table = metadata
    for key in parents:
        table = table[key]
    table[last] = value
    return json.dumps(metadata)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{oops", "JSON is invalid"),
        ("[1]", "expected a table"),
        ("null", "expected a table"),
        ("{}", "format 0 of an earlier"),
        ('{"format": "x"}', "format is 'x'"),
        (json.dumps({"format": FORMAT}), "step is missing; config is missing; dataset is missing; widths is missing"),
        ("[" * 20000 + "]" * 20000, "JSON is invalid"),
        ('{"format": ' + "9" * 5000 + "}", "JSON is invalid"),
        ('{"format": NaN}', "JSON is invalid: it holds NaN"),
        (changed_metadata("config", []), "config is [], expected"),
        (changed_metadata("config.model", 5), "config.model is 5, expected"),
        (changed_metadata("config.model", {"name": "²"}), "unknown model '²'"),
        (changed_metadata("config.backbone", {}), "config.backbone.name is missing"),
        (changed_metadata("config.loss.name", None), "config.loss.name is None, expected a string"),
        (changed_metadata("config", {}), "model is missing"),
        (changed_metadata("widths", "all"), "widths is 'all', expected a mapping"),
        (changed_metadata("dataset.ignore", {}), "dataset.ignore is {}, expected an integer"),
        (changed_metadata("dataset.label_map", ""), "dataset.label_map is '', expected a mapping"),
        (changed_metadata("dataset.label_map", {"²": 1}), "dataset.label_map is {'²': 1}, expected a mapping"),
        (changed_metadata("dataset.label_map", {"0": 9}), "data.label_map maps to 9"),
        (changed_metadata("dataset.classes", 1e30), "dataset.classes is 1e+30, expected a list"),
        (changed_metadata("dataset.classes", ["a", "a"]), "names a more than once"),
        (changed_metadata("dataset.classes", ["a", "\n"]), "the name of class 1 is empty"),
        (changed_metadata("dataset.mean", [0.0, 1.0]), "dataset: data.std has 3 values for data.channels=2"),
        (changed_metadata("dataset.mean", []), "dataset: data.mean is empty"),
        (changed_metadata("dataset.bits", 12), "dataset.bits is 12, expected one of 8, 16"),
        (changed_metadata("dataset.std", [10**400] * 3), "dataset.std is [1000"),
        (changed_metadata("dataset.palette", [[0, 0, 0]]), "1 colors for 2 classes"),
    ],
)
def test_foreign_metadata_is_rejected_with_file_and_field(saved_run, tmp_path, text, message):
    path = write_metadata(tmp_path / "foreign.safetensors", saved_run, text)
    with pytest.raises(ConfigError) as error:
        segzoo.load(path)
    assert message in str(error.value) and "foreign.safetensors" in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda manifest: manifest | {"files": {}}, f"files names [], expected {MODEL} and {TRAINER}"),
        (
            lambda manifest: manifest | {"files": {**manifest["files"], "../../x": manifest["files"][MODEL]}},
            "files names ['../../x'",
        ),
        (lambda manifest: manifest | {"files": {**manifest["files"], TRAINER: 5}}, f"files.'{TRAINER}' is 5, expected a table"),
        (lambda manifest: manifest | {"files": {**manifest["files"], MODEL: {"sha256": "0"}}}, f"files.'{MODEL}'.bytes is missing"),
        (lambda manifest: manifest | {"step": "²"}, "step is '²', expected an integer"),
        (lambda manifest: manifest | {"scores": {"miou": "high"}}, "scores.miou is 'high', expected a number"),
        (lambda manifest: manifest | {"scores": [1]}, "scores is [1], expected a table"),
    ],
)
def test_an_invalid_manifest_is_named_and_the_older_checkpoint_used(saved_run, tmp_path, damage, message):
    run = shutil.copytree(saved_run, tmp_path / "run")
    save_checkpoint(run, 9, build_model(), {}, CONFIG, INFO, {})
    path = run / "checkpoints/9" / MANIFEST
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(CheckpointError, match="manifest.json is invalid") as error:
        read_model(path.parent)
    assert message in str(error.value)
    assert latest_valid(run)[0] == run / "checkpoints/7"
    assert open_run("train", "x", {}, tmp_path, out=str(tmp_path / "out"), resume=str(run)).resume_from == run / "checkpoints/7"
    assert update_best(run) is None, "an invalid manifest ends no training"


@pytest.mark.parametrize("content", [b"\xff\xfe7", b"", b"8", "²".encode(), b"../../secret", b"7" * 5000])
def test_a_pointer_that_names_no_checkpoint_is_rejected(saved_run, tmp_path, content):
    run = shutil.copytree(saved_run, tmp_path / "run")
    (run / "checkpoints/best").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoints/best (names step|cannot be read)"):
        read_model(run)
    assert read_pointer(run, "best") is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([1.0, float("nan")]), "tensor head.weight has values from nan"),
        (torch.tensor([1.0, float("-inf")]), "from -inf to 1"),
        (torch.tensor([1.0, 3.7e37]), "to 3.7e"),
        (torch.tensor([1.0, float("nan")], dtype=torch.bfloat16), "from nan"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "head.weight is quantized"),
        (torch.ones(2).to_sparse(), "sparse"),
        (torch.ones(2, device="meta"), "without values"),
    ],
)
def test_tensors_that_are_no_weights_are_rejected_by_name(tmp_path, value, message):
    torch.save({"head.weight": value}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="w.pth") as error:
        read_weights(tmp_path / "w.pth")
    assert message in str(error.value)


def test_a_diverged_checkpoint_is_rejected_by_tensor(tmp_path):
    model = build_model()
    model.score.bias.data[0] = float("nan")
    directory = save_checkpoint(tmp_path, 7, model, {}, CONFIG, INFO, {})
    with pytest.raises(ConfigError, match=r"tensor score.bias has values from nan"):
        segzoo.load(directory)


def test_paths_that_no_file_can_have_are_rejected(saved_run):
    for path in ("x" * 5000, "a\0b"):
        with pytest.raises(CheckpointError, match="does not exist"):
            read_model(path)
