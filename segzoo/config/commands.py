"""The one joint of the house: a composed configuration becomes checked objects.

Sections are built by their registry, frame words are the keyword-only parameters of the functions they steer; rules between
sections stand in ``segzoo/rules.py``. Importing this module imports no torch; checking a configuration does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segzoo.registry import (
    Setting,
    settings_of,
    shape,
)

if TYPE_CHECKING:
    pass
from segzoo.config.sections import TRAINING


@dataclass(frozen=True)
class Frame:
    """One tool's configuration.

    Attributes:
        sections: the sections it holds.
        steers: the functions whose keyword-only parameters are its plain words, as ``module:name``.
        from_checkpoint: sections that may be null because a checkpoint brings them.
    """

    sections: tuple[str, ...]
    steers: tuple[str, ...]
    from_checkpoint: tuple[str, ...] = ()

    def words(self) -> dict[str, Setting]:
        """The plain words of the frame, read off the functions it steers."""
        return {name: setting for path in self.steers for name, setting in settings_of(_function(path)).items()}


FRAMES = {
    "train": Frame(TRAINING, ("segzoo.training.loop:train", "segzoo.runs.open_run:open_run", "segzoo.runs.locks:claim_gpu")),
    "eval": Frame(
        ("model", "backbone", "data", "post"),
        (
            "segzoo.evaluation.evaluator:evaluate",
            "segzoo.runs.open_run:open_result",
            "segzoo.config.from_checkpoint:load_with_config",
        ),
        from_checkpoint=("model", "backbone", "data"),
    ),
    "describe": Frame(
        ("model", "backbone"),
        ("segzoo.workflows.benchmark.model_summary:describe", "segzoo.config.from_checkpoint:outlines"),
        from_checkpoint=("model", "backbone"),
    ),
    "export": Frame(
        ("data",),
        ("segzoo.export.exporter:deliver", "segzoo.runs.open_run:open_result", "segzoo.config.from_checkpoint:load_with_config"),
        from_checkpoint=("data",),
    ),
    "bench": Frame(
        ("model", "backbone", "data", "runtime"),
        (
            "segzoo.workflows.benchmark.measure:bench",
            "segzoo.runs.open_run:open_result",
            "segzoo.workflows.benchmark.workload:subject",
            "segzoo.workflows.benchmark.workload:bench_pictures",
            "segzoo.workflows.benchmark.runner:measured_row",
        ),
        from_checkpoint=("model", "backbone", "data"),
    ),
    "prune": Frame(
        TRAINING,
        (
            "segzoo.training.loop:train",
            "segzoo.runs.open_run:open_run",
            "segzoo.runs.locks:claim_gpu",
            "segzoo.config.from_checkpoint:start_of",
            "segzoo.workflows.prune.stages:stages",
            "segzoo.workflows.prune.stages:timed_rows",
        ),
        from_checkpoint=("model", "backbone", "data"),
    ),
    "predict": Frame(
        ("post",),
        (
            "segzoo.inference.predictor:predict",
            "segzoo.runs.open_run:open_result",
            "segzoo.config.from_checkpoint:load_with_config",
        ),
    ),
}


def words_for(function: Callable, config: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a configuration that steer one function: its keyword-only parameters, in the containers its types name."""
    known = settings_of(function)
    return {key: shape(config[key], setting.type) for key, setting in known.items() if key in config}


def _function(path: str) -> Callable:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
