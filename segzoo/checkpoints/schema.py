"""Checks of the JSON in checkpoints, which may be damaged or foreign.

Every problem is a ``CheckpointError`` that names the file and the field.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from segzoo.registry import ConfigError, Range, type_error
from segzoo.types import DatasetInfo, PlainDict

FORMAT = 2  # 1 had other names for settings and metadata
MODEL, TRAINER = "model.safetensors", "trainer.pt"

Count = Annotated[int, Range(0, 2**63 - 1)]
Table = PlainDict
MANIFEST_FIELDS = {"step": Count, "files": Table}
FILE_FIELDS = {"sha256": str, "bytes": Count}
SCORE_FIELDS = {"miou": float}
METADATA_FIELDS = {"step": Count, "config": Table, "dataset": Table, "widths": dict[str, Annotated[int, Range(1, 65536)]]}
TRAINER_FIELDS = {
    "step": Count,
    "images_seen": Count,
    "nonfinite_steps": Count,
    "seconds": Annotated[float, Range(0, 1e12)],
    "keep_ratio": Annotated[float, Range(0, 1)],
    "loss_meters": Table,
    "scaler": Table,
    "ema": Table,
    "optimizer": Table,
    "rng": tuple[Table, ...],
}
OPTIMIZER_FIELDS = {"state": dict[int, Table], "param_groups": tuple[Table, ...]}
DATASET_FIELDS = {
    "name": str,
    "classes": tuple[str, ...],
    "palette": tuple[Annotated[tuple[int, int, int], Range(0, 255)], ...],
    "mean": Annotated[tuple[float, ...], Range(0, 65535)],
    "std": Annotated[tuple[float, ...], Range(0, 65535, above=True)],
    "ignore": Annotated[int, Range(0, 65535)],
    "label_map": dict[int, int],
}
NEWER_DATASET_FIELDS = {"bits": Literal[8, 16], "show_channels": Annotated[tuple[int, ...] | None, Range(0, 65535)]}
SECTIONS = ("model", "backbone", "data", "loss")  # of the configuration


class CheckpointError(ConfigError):
    """A checkpoint that cannot be used.

    The message names the file, the problem and what to do.
    """


def parse_json(path: Path, content: str | bytes, object_hook: Callable[[PlainDict], object] | None = None) -> Any:
    """Parse JSON from a checkpoint.

    Raises:
        CheckpointError: it is not JSON, is nested too deeply, or holds a number that is too long or not finite.
    """
    try:
        return json.loads(content, object_hook=object_hook, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: its JSON is invalid: {error}") from None


def check_manifest(path: Path, manifest: object) -> None:
    """Check the fields of a manifest and their types.

    Raises:
        CheckpointError: names every invalid field.
    """
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CheckpointError(f"{path} is not a checkpoint's manifest: it names no files")
    check_format(path, manifest)
    errors = _field_errors(manifest, MANIFEST_FIELDS)
    files, scores = manifest["files"], manifest.get("scores")
    if not {MODEL} <= files.keys() <= {MODEL, TRAINER}:  # a network to share has no trainer
        errors.append(f"files names {_short(sorted(files))}, expected {MODEL} and {TRAINER}")
    for name, entry in files.items():
        errors += _field_errors(entry, FILE_FIELDS, f"files.{_short(name)}")
    errors += [] if scores is None else _field_errors(scores, SCORE_FIELDS, "scores")
    _raise_errors(path, errors)


def check_metadata(path: Path, metadata: object) -> None:
    """Check the metadata of a weight file.

    Raises:
        CheckpointError: names every invalid field.
    """
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: its metadata is {_short(metadata)}, expected a table")
    check_format(path, metadata)
    errors = _field_errors(metadata, METADATA_FIELDS)
    if not errors:
        newer = {key: kind for key, kind in NEWER_DATASET_FIELDS.items() if key in metadata["dataset"]}
        errors = _section_errors(metadata["config"]) + _field_errors(metadata["dataset"], DATASET_FIELDS | newer, "dataset")
    if not errors:
        try:
            DatasetInfo.from_dict(metadata["dataset"])
        except ValueError as error:
            errors = [f"dataset: {error}"]
    _raise_errors(path, errors)


def check_trainer(path: Path, state: Any) -> None:
    """Check the fields of a trainer state and their types.

    Raises:
        CheckpointError: names every invalid field.
    """
    errors = _field_errors(state, TRAINER_FIELDS)
    _raise_errors(path, errors or _field_errors(state["optimizer"], OPTIMIZER_FIELDS, "optimizer"))


def check_format(path: Path, metadata: PlainDict) -> None:
    """Check that this version of segzoo can read a file's format.

    Raises:
        CheckpointError: a version with another format wrote the file.
    """
    written = metadata.get("format", 0)
    if type_error(written, int):
        raise CheckpointError(f"{path}: format is {_short(written)}, expected {FORMAT}")
    if written > FORMAT:
        raise CheckpointError(f"{path}: format {written}, but this version reads format {FORMAT}; update segzoo")
    if written < FORMAT:
        raise CheckpointError(
            f"{path}: format {written} of an earlier segzoo, whose settings had other names; this version reads format {FORMAT}. Train "
            "the model again, or load it with the version that wrote it"
        )


def restore_integer_keys(table: PlainDict) -> dict[Any, Any]:
    """Convert the keys of a JSON object to int if possible.

    JSON stores the keys of a ``label_map`` as strings.
    """
    has_integer_keys = bool(table) and all(re.fullmatch(r"-?[0-9]+", key) for key in table)
    return {int(key): value for key, value in table.items()} if has_integer_keys else table


def _field_errors(table: object, fields: Mapping[str, object], prefix: str = "") -> list[str]:
    if not isinstance(table, dict):
        return [f"{prefix} is {_short(table)}, expected a table"]
    errors = []
    for key, annotation in fields.items():
        name = f"{prefix}.{key}" if prefix else key
        if key not in table:
            errors.append(f"{name} is missing")
        elif expected := type_error(table[key], annotation):
            errors.append(f"{name} is {_short(table[key])}, expected {expected}")
    return errors


def _section_errors(config: PlainDict) -> list[str]:
    """Require that the sections of a configuration are tables with a name."""
    fields = {name: {} if name == "data" else {"name": str} for name in SECTIONS if name in config}
    return [error for name, keys in fields.items() for error in _field_errors(config[name], keys, f"config.{name}")]


def _raise_errors(path: Path, errors: list[str]) -> None:
    if errors:
        raise CheckpointError(f"{path} is invalid: {'; '.join(error.rstrip('.') for error in errors)}. Use another checkpoint.")


def _reject_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _short(value: object) -> str:
    return reprlib.repr(value)
