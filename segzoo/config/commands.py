"""Sections of each tool's configuration, and functions that take its settings.

A plain setting such as ``batch_size`` is a keyword-only parameter of a library function, or a field of a settings class. Importing
this module does not import torch. Reading the settings of a command does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from segzoo.config.sections import TRAINING_SECTIONS
from segzoo.registry import Setting, coerce, settings_of
from segzoo.types import PlainDict, PlainMapping

OPEN_RUN = ("segzoo.runs.open_run:open_run", "segzoo.runs.locks:claim_gpu")
TRAIN = (
    "segzoo.training.components:TrainingSettings",
    "segzoo.device:configure_allocator",
    "segzoo.workflows.prune.target_search:resolve_keep_ratio",
    "segzoo.config.from_weights:choose_normalization",
)
OUTPUT_DIR = "segzoo.runs.output_dir:create_output_dir"
LOAD = "segzoo.config.from_checkpoint:load_checkpoint"
THRESHOLD = "segzoo.inference.threshold:with_threshold"
SCORES = "segzoo.evaluation.scores.build:build_scores"
LOAD_ANY = "segzoo.config.from_weights:load_trained"


@dataclass(frozen=True)
class Command:
    """The configuration of one tool.

    Attributes:
        sections: its sections.
        functions: functions that take its plain settings, as ``module:name``.
        from_checkpoint: sections that may be null, because a checkpoint provides them or, for ``init``, replaces them.
    """

    sections: tuple[str, ...]
    functions: tuple[str, ...]
    from_checkpoint: tuple[str, ...] = ()

    def settings(self) -> dict[str, Setting]:
        """Read the plain settings from the signatures of the functions."""
        return {name: setting for path in self.functions for name, setting in settings_of(_function(path)).items()}

    def arguments(self, config: PlainMapping) -> dict[str, PlainDict]:
        """Collect the keyword arguments of each function, by its name."""
        return {path.rpartition(":")[2]: arguments_for(_function(path), config) for path in self.functions}


COMMANDS = {
    "train": Command(TRAINING_SECTIONS, (*TRAIN, *OPEN_RUN, "segzoo.workflows.report.run_page:report_training")),
    "eval": Command(
        ("model", "backbone", "data", "init", "protocol", "post"),
        (
            "segzoo.evaluation.evaluator:evaluate",
            THRESHOLD,
            SCORES,
            "segzoo.config.build:build_split",
            "segzoo.workflows.report.run_page:report_evaluation",
            OUTPUT_DIR,
            LOAD_ANY,
        ),
        from_checkpoint=("model", "backbone", "data", "init"),
    ),
    "compare": Command(
        ("data", "protocol", "post"),
        (
            "segzoo.workflows.compare.outside:score_outside",
            "segzoo.workflows.compare.comparison:compare_evaluations",
            "segzoo.workflows.report.comparison_page:report_comparison",
            "segzoo.evaluation.evaluator:evaluate",
            OUTPUT_DIR,
        ),
        from_checkpoint=("data",),
    ),
    "leaderboard": Command((), ("segzoo.workflows.leaderboard.ranking:rank_runs", OUTPUT_DIR)),
    "dataset": Command(("data", "action"), (OUTPUT_DIR,), from_checkpoint=("data",)),
    "describe": Command(
        ("model", "backbone"),
        ("segzoo.workflows.benchmark.model_summary:describe", "segzoo.config.from_checkpoint:meta_models"),
        from_checkpoint=("model", "backbone"),
    ),
    "export": Command(
        ("data",),
        ("segzoo.export.exporter:export_model", THRESHOLD, "segzoo.config.images:choose_images", OUTPUT_DIR, LOAD),
        from_checkpoint=("data",),
    ),
    "bench": Command(
        ("model", "backbone", "data", "init", "runtime"),
        (
            "segzoo.workflows.benchmark.measure:benchmark",
            OUTPUT_DIR,
            "segzoo.workflows.benchmark.workload:build_workload",
            "segzoo.workflows.benchmark.workload:benchmark_images",
            "segzoo.workflows.benchmark.runner:run_benchmark",
        ),
        from_checkpoint=("model", "backbone", "data", "init"),
    ),
    "prune": Command(
        TRAINING_SECTIONS,
        (
            *TRAIN,
            *OPEN_RUN,
            "segzoo.config.from_checkpoint:initial_model",
            "segzoo.workflows.prune.stages:evaluate_stages",
            "segzoo.workflows.prune.stages:finetuned_result",
            "segzoo.workflows.prune.stages:benchmark_before_after",
            "segzoo.workflows.prune.report:write_report",
        ),
        from_checkpoint=("model", "backbone", "data"),
    ),
    "predict": Command(
        ("model", "backbone", "data", "init", "protocol", "post", "runtime"),
        (
            "segzoo.inference.sources.opening:open_source",
            "segzoo.inference.outputs.result_files:plan_results",
            "segzoo.inference.predictor:predict_images",
            "segzoo.inference.engines.choice:runs_on_ray",
            "segzoo.inference.engines.ray_data:predict_with_ray",
            "segzoo.runs.output_dir:create_prediction_dir",
            THRESHOLD,
            LOAD_ANY,
        ),
        from_checkpoint=("model", "backbone", "data", "init"),
    ),
    "serve": Command(
        ("protocol", "post", "runtime"),
        (
            "segzoo.workflows.serve.models:load_models",
            "segzoo.workflows.serve.service:Limits",
            "segzoo.workflows.serve.address:bind",
            "segzoo.config.checks.serving:read_token",
        ),
    ),
}


def arguments_for(function: Callable, config: PlainMapping) -> PlainDict:
    """Collect the keyword-only arguments of a function from a configuration.

    Values are converted to the containers of the annotations, such as tuples.
    """
    known = settings_of(function)
    return {key: coerce(config[key], setting.type) for key, setting in known.items() if key in config}


def _function(path: str) -> Callable:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
