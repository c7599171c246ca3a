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
    coerce,
    settings_of,
)

if TYPE_CHECKING:
    pass
from segzoo.config.sections import TRAINING_SECTIONS


@dataclass(frozen=True)
class Command:
    """One tool's configuration.

    Attributes:
        sections: the sections it holds.
        steers: the functions whose keyword-only parameters are its plain words, as ``module:name``.
        from_checkpoint: sections that may be null because a checkpoint brings them.
    """

    sections: tuple[str, ...]
    functions: tuple[str, ...]
    from_checkpoint: tuple[str, ...] = ()

    def settings(self) -> dict[str, Setting]:
        """The plain words of the frame, read off the functions it steers."""
        return {name: setting for path in self.functions for name, setting in settings_of(_function(path)).items()}


COMMANDS = {
    "train": Command(
        TRAINING_SECTIONS, ("segzoo.training.loop:train", "segzoo.runs.open_run:open_run", "segzoo.runs.locks:claim_gpu")
    ),
    "eval": Command(
        ("model", "backbone", "data", "post"),
        (
            "segzoo.evaluation.evaluator:evaluate",
            "segzoo.runs.open_run:create_output_dir",
            "segzoo.config.from_checkpoint:load_checkpoint",
        ),
        from_checkpoint=("model", "backbone", "data"),
    ),
    "describe": Command(
        ("model", "backbone"),
        ("segzoo.workflows.benchmark.model_summary:describe", "segzoo.config.from_checkpoint:meta_models"),
        from_checkpoint=("model", "backbone"),
    ),
    "export": Command(
        ("data",),
        (
            "segzoo.export.exporter:export_model",
            "segzoo.runs.open_run:create_output_dir",
            "segzoo.config.from_checkpoint:load_checkpoint",
        ),
        from_checkpoint=("data",),
    ),
    "bench": Command(
        ("model", "backbone", "data", "runtime"),
        (
            "segzoo.workflows.benchmark.measure:benchmark",
            "segzoo.runs.open_run:create_output_dir",
            "segzoo.workflows.benchmark.workload:build_workload",
            "segzoo.workflows.benchmark.workload:benchmark_images",
            "segzoo.workflows.benchmark.runner:run_benchmark",
        ),
        from_checkpoint=("model", "backbone", "data"),
    ),
    "prune": Command(
        TRAINING_SECTIONS,
        (
            "segzoo.training.loop:train",
            "segzoo.runs.open_run:open_run",
            "segzoo.runs.locks:claim_gpu",
            "segzoo.config.from_checkpoint:initial_model",
            "segzoo.workflows.prune.stages:evaluate_stages",
            "segzoo.workflows.prune.stages:benchmark_before_after",
        ),
        from_checkpoint=("model", "backbone", "data"),
    ),
    "predict": Command(
        ("post",),
        (
            "segzoo.inference.predictor:predict_images",
            "segzoo.runs.open_run:create_output_dir",
            "segzoo.config.from_checkpoint:load_checkpoint",
        ),
    ),
}


def arguments_for(function: Callable, config: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a configuration that steer one function: its keyword-only parameters, in the containers its types name."""
    known = settings_of(function)
    return {key: coerce(config[key], setting.type) for key, setting in known.items() if key in config}


def _function(path: str) -> Callable:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
