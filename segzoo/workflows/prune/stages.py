"""Scores, size and latency of a model before and after pruning."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from segzoo.config.from_checkpoint import load_model
from segzoo.device import DeviceName, Precision, PrecisionName, RuntimePrecision, pick_device
from segzoo.io import write_json
from segzoo.messages import Example
from segzoo.registry import RUNTIMES, Range, settings_of
from segzoo.types import PlainDict, PlainMapping
from segzoo.workflows.benchmark.model_summary import model_complexity
from segzoo.workflows.benchmark.runner import run_in_subprocess

if TYPE_CHECKING:
    from torch import nn

    from segzoo.pruning.sensitivity import SensitivityCurve
    from segzoo.training.components import TrainingComponents

Size = Annotated[tuple[int, int], Range(33, 8192), Example([480, 640])]


def evaluate_stages(
    components: TrainingComponents,
    folder: Path,
    *,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    workers: Annotated[int, Range(0, 1024)] = 2,
    bench_hw: Size = (1024, 2048),
    sensitivity: bool = True,
) -> tuple[list[PlainDict], Sequence[SensitivityCurve]]:
    """Evaluate a model before pruning, and right after its first stage.

    The first stage is evaluated only if it runs before the first training step. Results are stored in ``pruning_stages.json``. A resumed run
    reads them instead of evaluating the same model on the same settings again.

    Args:
        components: of the fine-tuning. Its model is moved to the device and not changed otherwise. If the first stage runs before the first
            step, its pruner is replaced by one that removes the channels evaluated here.
        folder: the run directory.
        device, precision, workers: of the training.
        bench_hw: height and width for which operations are counted.
        sensitivity: measure the sensitivity of every layer, which runs the model on some training images many times.

    Returns:
        Rows for ``write_report``, and the sensitivity curves.
    """
    from segzoo.evaluation.evaluator import evaluate
    from segzoo.pruning.sensitivity import SensitivityCurve, scan_sensitivity
    from segzoo.pruning.surgery import remove_channels_
    from segzoo.training.calibration import CalibrationSet

    path = folder / "pruning_stages.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    key = _cache_key(components, precision=precision, bench_hw=bench_hw, curves=sensitivity)
    if stored.get("depends_on") == key:
        if components.pruner is not None and stored["chosen"] is not None:
            components.pruner = replace(components.pruner, chosen=frozenset(stored["chosen"]))
        return stored["rows"], [SensitivityCurve.from_dict(curve) for curve in stored["curves"]]
    torch_device = pick_device(device)
    model = components.model.to(torch_device)
    calibration = CalibrationSet(model, components, Precision(precision, torch_device))

    def row(stage: str, network: nn.Module) -> PlainDict:
        result = evaluate(network, components.val_set, components.info, device=device, precision=precision, workers=workers)
        return {"what": stage, "miou": result.scores.miou, "miou_interval": result.interval} | _model_size(network, bench_hw)

    rows, pruner, curves, removed = [row("before", model)], components.pruner, [], None
    if pruner is not None and (sensitivity or pruner.start == 0):
        ranking = pruner.ranking(model, calibration)
        if pruner.start == 0:
            removed, pruned = ranking.select(pruner.keep_ratios[0]), copy.deepcopy(model)
            remove_channels_(pruned, ranking.graph, removed)
            rows.append(row("pruned", pruned))
            components.pruner = replace(pruner, chosen=frozenset(removed))
        curves = list(ranking.curves)
        if sensitivity and not curves:
            curves = scan_sensitivity(model, ranking.graph, ranking.importance, calibration.loss, pruner.exclude)
    chosen = None if removed is None else sorted(removed)
    write_json(path, {"depends_on": key, "rows": rows, "curves": [asdict(curve) for curve in curves], "chosen": chosen})
    return rows, curves


def _cache_key(components: TrainingComponents, **settings: object) -> PlainDict:
    """Everything that the results of ``evaluate_stages`` depend on, except the device."""
    from segzoo.checkpoints.serialization import state_dict_hash

    sections = {name: components.config.get(name) for name in ("pruner", "data", "augment", "loss")}
    ratios = None if components.pruner is None else components.pruner.keep_ratios
    key = sections | settings | {"network": state_dict_hash(components.model), "keep_ratios": ratios}
    return json.loads(json.dumps(key))  # tuples become lists, as in the stored key


def finetuned_result(run: Path, *, bench_hw: Size = (1024, 2048)) -> PlainDict:
    """The row of a finished training, for its best checkpoint."""
    summary = json.loads((run / "eval" / "summary.json").read_text(encoding="utf-8"))
    scores = {key: summary[key] for key in ("miou", "miou_interval")}
    return {"what": "fine-tuned"} | scores | _model_size(load_model(run), bench_hw)


def _model_size(model: nn.Module, hw: tuple[int, int]) -> PlainDict:
    """Parameters and operations as in ``describe``, without training-only heads."""
    complexity = model_complexity(model, hw)
    return {key: complexity[key] for key in ("params", "gmacs")}


def benchmark_before_after(
    models: Mapping[str, str | PlainMapping],
    *,
    device: DeviceName = "auto",
    bench_runtimes: tuple[str, ...] = ("eager", "openvino"),
    bench_precision: RuntimePrecision = "bf16",
    bench_hw: Size = (1024, 2048),
) -> dict[str, list[PlainDict]]:
    """Measure the latency of models in several runtimes.

    Each measurement runs in its own process: one decoded image to its labels.

    Args:
        models: run directories or checkpoint files by name; or ``model``, ``backbone``, ``data`` and ``num_classes`` of a model with random
            weights, as in the configuration of the benchmark.
        device: where the models run.
        bench_runtimes: runtimes to measure; the row of an unavailable one holds its error.
        bench_precision: number format.
        bench_hw: height and width of the image in pixels.

    Returns:
        Benchmark rows of each model, in the order of the runtimes.
    """
    common = {
        "model": None,
        "backbone": None,
        "data": None,
        "ckpt": None,
        "precision": bench_precision,
        "hw": bench_hw,
        "device": device,
        "batch": 1,
        "scope": "net+labels",
        "max_seconds": 10.0,
        "ci_half_width": 0.03,
    }

    def row(model: str | PlainMapping, runtime: str) -> PlainDict:
        settings = {name: setting.default for name, setting in settings_of(RUNTIMES.get(runtime)).items()}
        source = {"ckpt": model} if isinstance(model, str) else dict(model)
        return {"runtime": runtime, **run_in_subprocess(common | source | {"runtime": {"name": runtime, **settings}})}

    return {name: [row(model, runtime) for runtime in bench_runtimes] for name, model in models.items()}
