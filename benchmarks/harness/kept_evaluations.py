"""Evaluations kept as result files, to be compared later.

A study trains for days, and its runs may be lost in between. A kept evaluation has the scores, the pixel counts of every image and the
configuration of the training: comparing it needs neither the run nor the data set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import result_files
from benchmarks.harness.result_files import read_result, write_result
from benchmarks.harness.tool_runs import run_config, run_environment, run_summary
from segzoo.io import write_array
from segzoo.workflows.compare.evaluations import StoredEvaluation, read_evaluation


class KeptRun(NamedTuple):
    """A run of a study, without its weights.

    Attributes:
        evaluation: of its last checkpoint.
        training: ``config``, the ``result.json`` as ``result``, and ``git``, ``machine`` and ``versions`` of the training.
    """

    evaluation: StoredEvaluation
    training: dict[str, Any]


def keep_evaluation(study: str, run: Path, folder: Path, command: str) -> Path:
    """Write ``results/<study>/<run>.json``, and its counts as ``.npy``.

    Args:
        study: name of the study.
        run: run directory of the training.
        folder: directory of its evaluation.
        command: the benchmark as it was typed.

    Returns:
        The path of the JSON file, which is written last.
    """
    evaluation, environment = read_evaluation(folder, run.name), run_environment(run)
    training = {"config": run_config(run), "result": run_summary(run)}
    training |= {key: environment[key] for key in ("git", "machine", "versions")}
    path = _path(study, run.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_array(path.with_suffix(".npy"), evaluation.counts.astype(np.uint32))
    scored_by = {key: run_environment(folder)[key] for key in ("git", "machine", "versions")}
    rows = {"training": training, "scored_by": scored_by, "summary": evaluation.summary, "image_names": evaluation.image_names}
    return write_result(f"{study}/{run.name}", command, rows)


def is_kept(study: str, name: str) -> bool:
    """True if the evaluation of a run is kept."""
    return _path(study, name).exists()


def kept_run(study: str, name: str) -> KeptRun:
    """Read a kept evaluation."""
    rows, path = read_result(f"{study}/{name}")["rows"], _path(study, name)
    evaluation = StoredEvaluation(
        name,
        path.parent,
        rows["summary"],
        np.load(path.with_suffix(".npy")),
        tuple(rows["image_names"]),
        {},
        rows["training"]["config"],
        rows["scored_by"]["versions"]["segzoo"].rpartition(".")[0],
    )
    return KeptRun(evaluation, rows["training"])


def kept_names(study: str) -> list[str]:
    """Names of a study's kept runs, sorted."""
    return sorted(path.stem for path in (result_files.RESULTS / study).glob("*.json"))


def _path(study: str, name: str) -> Path:
    return result_files.RESULTS / study / f"{name}.json"
