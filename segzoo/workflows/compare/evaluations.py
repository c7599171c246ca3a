"""Evaluations on disk, and the trainings that they belong to."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.checkpoints.paths import split_run_and_step
from segzoo.checkpoints.schema import CheckpointError
from segzoo.evaluation.metrics import COUNTS
from segzoo.messages import format_override
from segzoo.registry import ConfigError
from segzoo.runs.environment import recorded_version
from segzoo.runs.replaced_results import PREFIXES
from segzoo.runs.run_dir import read_result
from segzoo.types import PlainDict

COUNTS_FILE = "per_image_counts.npy"


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation directory, as ``write_summary`` leaves it.

    Attributes:
        name: shown in tables.
        folder: the directory.
        summary: its ``summary.json``.
        counts: (N, 3, K), the per-image counts.
        image_names: names of the N images; None if an earlier version wrote the directory.
        config: the configuration of its own tool, empty if there is none.
        training: the configuration of the training, empty if it is not found.
        version: version of segzoo that scored, such as ``0.2``, or None if it is unknown.
    """

    name: str
    folder: Path
    summary: PlainDict
    counts: np.ndarray
    image_names: tuple[str, ...] | None
    config: PlainDict
    training: PlainDict
    version: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the counts."""
        return tuple(self.summary["per_class"])

    @property
    def is_unfinished(self) -> bool:
        """True for the scores of a training that has not finished."""
        run = self.folder.absolute().parent
        is_own = self.folder.absolute().name == "eval" and (run / "checkpoints").is_dir()
        return is_own and read_result(run).get("finished") is not True

    @property
    def protocol(self) -> PlainDict:
        """Settings, precision and data that the scores depend on."""
        return self.summary["protocol"]


def find_evaluations(paths: Sequence[str]) -> list[StoredEvaluation]:
    """Read the evaluations of runs.

    Args:
        paths: evaluation directories, run directories or folders of these. Exported files are left out, as they have yet to be scored.

    Raises:
        ConfigError: a path holds no evaluation. The message says how to make one.
    """
    folders: list[Path] = []
    for path in map(Path, paths):
        if find_exported_file(path) is None:
            folders += _evaluation_folders(path)
    folders = list(dict.fromkeys(folders))
    return [read_evaluation(folder, name) for folder, name in zip(folders, unique_names(folders), strict=True)]


def read_evaluation(folder: Path, name: str) -> StoredEvaluation:
    """Read an evaluation directory.

    Raises:
        ConfigError: a file of it is missing or damaged.
    """
    again = "Evaluate again: python tools/eval.py ckpt=<run directory>"
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        counts = np.load(folder / COUNTS_FILE)
        names = folder / "image_names.json"
        image_names = tuple(json.loads(names.read_text(encoding="utf-8"))) if names.is_file() else None
        shape = (summary["protocol"]["images"], len(COUNTS), len(summary["per_class"]))
        if not isinstance(summary["protocol_id"], str) or counts.dtype.kind not in "ui" or counts.shape != shape:
            raise ValueError(f"{COUNTS_FILE} has {counts.dtype} {counts.shape}, expected integers {shape}")
        if image_names is not None and len(image_names) != len(counts):
            raise ValueError(f"image_names.json has {len(image_names)} names for {len(counts)} images")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ConfigError(f"{folder} holds no complete evaluation ({type(error).__name__}: {error}). {again}") from None
    config, run = _read_yaml(folder / "config.yaml"), run_directory(folder)
    training = _read_yaml(run / "config.yaml") if run else {}
    return StoredEvaluation(
        name,
        folder,
        summary,
        counts,
        image_names,
        config,
        training,
        _version(folder.absolute()),
    )


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Name directories by the last parts of their paths.

    Each gets as many parts as tell it apart. A run directory named after its time is shown with its parent.
    """
    parts = [_without_eval(folder.absolute()).parts for folder in folders]
    endings = Counter(own[-length:] for own in parts for length in range(1, len(own) + 1))
    names = []
    for own in parts:
        length = 2 if re.match(r"\d{4}-\d\d-\d\d_", own[-1]) else 1
        while length < len(own) and endings[own[-length:]] > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def _without_eval(folder: Path) -> Path:
    """The run directory of its own evaluation."""
    return folder.parent if folder.name == "eval" else folder


def _evaluation_folders(path: Path) -> list[Path]:
    for folder in (path, path / "eval"):
        if (folder / "summary.json").is_file():
            return [folder]
    found = sorted(file.parent for file in path.rglob("summary.json") if (file.parent / COUNTS_FILE).is_file())
    found = [folder for folder in found if not any((parent / "compare.json").is_file() for parent in folder.parents)]
    found = [folder for folder in found if not any(part.startswith(PREFIXES) for part in folder.parts)]  # about to be replaced
    if found:
        return found
    with suppress(CheckpointError):
        split_run_and_step(path)
        command = format_override("ckpt", str(path))
        raise ConfigError(
            f"{path} has no evaluation yet. Evaluate it: python tools/eval.py {command}, and compare the output directory."
        )
    raise ConfigError(
        f"{path} holds no evaluation. Expected an output directory of tools/eval.py, a run directory, a folder of these, or an exported "
        "file."
    )


def _version(folder: Path) -> str | None:
    """Version that scored: of the evaluation, its run or its comparison."""
    above = folder.parents[1] if folder.parent.name == "evaluations" else folder.parent
    return recorded_version(folder) or recorded_version(above)


def run_directory(folder: Path) -> Path | None:
    """Find the run directory whose checkpoint was evaluated."""
    own = folder.absolute().parent
    if folder.absolute().name == "eval" and (own / "checkpoints").is_dir():
        return own
    ckpt = _read_yaml(folder / "config.yaml").get("ckpt")
    with suppress(CheckpointError, TypeError):
        return split_run_and_step(ckpt)[0]  # type: ignore[arg-type]
    return None


def _read_yaml(path: Path) -> PlainDict:
    """Content of a file, empty if it cannot be read."""
    with suppress(OSError, ValueError, yaml.YAMLError):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}
