"""What pruning came to: scores, sizes and times before and after, and how much each layer's channels mattered, on one page."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from segzoo.config.from_checkpoint import load
from segzoo.io import write_json
from segzoo.registry import RUNTIMES, Range, settings_of
from segzoo.workflows.benchmark.model_summary import model_complexity
from segzoo.workflows.benchmark.runner import run_in_subprocess

if TYPE_CHECKING:
    from segzoo.pruning.sensitivity import SensitivityCurve
    from segzoo.training.components import TrainingComponents


Side = Annotated[int, Range(33, 8192)]


def evaluate_stages(
    parts: TrainingComponents,
    folder: Path,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    workers: Annotated[int, Range(0)] = 2,
    bench_hw: tuple[Side, Side] = (1024, 2048),
    sensitivity: bool = True,
) -> tuple[list[dict[str, Any]], Sequence[SensitivityCurve]]:
    """Scores a network before anything happens to it and, if its first stage of pruning comes before any step, right after that.

    What is found is kept in ``stages.json``, which a resumed run reads instead of looking again if it would look at the same network in
    the same way.

    Args:
        parts: of the training that will fine-tune it; its model is left as it is, on the device, and its pruner learns what its first
            stage removes, if that comes before any step.
        folder: the run's.
        device, precision, workers: as the training takes them.
        bench_hw: height and width for which operations are counted.
        curves: look how much each layer's channels matter, which runs the network on some training images again and again.

    Returns:
        Rows for ``write_report``, and the curves.
    """
    from segzoo.device import Precision, pick_device
    from segzoo.evaluation.evaluator import evaluate
    from segzoo.pruning.sensitivity import SensitivityCurve, scan_sensitivity
    from segzoo.pruning.surgery import remove_channels_
    from segzoo.training.calibration import CalibrationSet

    kept = folder / "pruning_stages.json"
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    looked = _evaluate_cached(parts, precision=precision, bench_hw=bench_hw, curves=sensitivity)
    if known.get("looked") == looked:
        if parts.pruner is not None and known["chosen"] is not None:
            parts.pruner = replace(parts.pruner, chosen=frozenset(known["chosen"]))
        return known["rows"], [SensitivityCurve.from_dict(curve) for curve in known["curves"]]
    place = pick_device(device)
    model, evidence = parts.model.to(place), CalibrationSet(parts.model, parts, Precision(precision, place))

    def row(what: str, network: Any) -> dict[str, Any]:
        found = evaluate(network, parts.val_set, parts.info, device=device, precision=precision, workers=workers)
        return {"what": what, "miou": found.scores.miou, "miou_interval": found.interval} | _model_size(network, bench_hw)

    rows, pruner, drawn, gone = [row("before", model)], parts.pruner, [], None
    if pruner is not None and (sensitivity or pruner.start == 0):
        ranking = pruner.ranking(model, evidence)
        if pruner.start == 0:
            gone, cut = ranking.select(pruner.keep_ratios[0]), copy.deepcopy(model)
            remove_channels_(cut, ranking.channels, gone)
            rows.append(row("pruned", cut))
            parts.pruner = replace(pruner, chosen=frozenset(gone))
        drawn = list(ranking.curves)
        if sensitivity and not drawn:
            drawn = scan_sensitivity(model, ranking.channels, ranking.importance, evidence.loss, pruner.exclude)
    chosen = None if gone is None else sorted(gone)
    write_json(kept, {"looked": looked, "rows": rows, "curves": [asdict(curve) for curve in drawn], "chosen": chosen})
    return rows, drawn


def _evaluate_cached(parts: TrainingComponents, **words: Any) -> dict[str, Any]:
    """Everything on which the rows and curves of ``stages`` depend, as JSON gives it back; not the device, on which they may go on."""
    from segzoo.checkpoints.serialization import state_dict_hash

    sections = {name: parts.config.get(name) for name in ("pruner", "data", "augment", "loss")}
    shares = None if parts.pruner is None else parts.pruner.keep_ratios
    return json.loads(json.dumps(sections | words | {"network": state_dict_hash(parts.model), "shares": shares}))


def finetuned_result(run: Path, *, bench_hw: tuple[Side, Side] = (1024, 2048)) -> dict[str, Any]:
    """The row of what a finished training came to: its best checkpoint's."""
    summary = json.loads((run / "eval" / "summary.json").read_text(encoding="utf-8"))
    scores = {key: summary[key] for key in ("miou", "miou_interval")}
    return {"what": "fine-tuned"} | scores | _model_size(load(run), bench_hw)


def _model_size(model: Any, hw: tuple[int, int]) -> dict[str, Any]:
    """Parameters and operations as ``describe`` counts them, training-only heads left out."""
    totals = model_complexity(model, hw)
    return {key: totals[key] for key in ("params", "gmacs")}


def benchmark_before_after(
    sides: Mapping[str, str | Mapping[str, Any]],
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    bench_runtimes: tuple[str, ...] = ("eager", "openvino"),
    bench_precision: Literal["fp32", "bf16", "fp16", "int8"] = "bf16",
    bench_hw: tuple[Side, Side] = (1024, 2048),
) -> dict[str, list[dict[str, Any]]]:
    """Times networks in several runtimes, each in a process of its own, one image from bytes to labels.

    Args:
        sides: by what they are called, run directories or files; or ``model``, ``backbone``, ``data`` and ``classes``, as the bench takes
            them, of a network with random weights.
        device: where.
        timed: runtimes; one that is not installed or not able says so in its row. None times nothing.
        bench_precision: number format.
        bench_hw: height and width of the image in pixels.

    Returns:
        Rows as the bench gives them, by name and in the order of the runtimes.
    """
    common = {
        "model": None,
        "backbone": None,
        "data": None,
        "ckpt": None,
        "precision": bench_precision,
        "hw": bench_hw,
        "device": device,
    }
    common |= {"batch": 1, "scope": "net+labels", "max_seconds": 10.0, "ci_half_width": 0.03}

    def row(side: str | Mapping[str, Any], runtime: str) -> dict[str, Any]:
        words = {name: setting.default for name, setting in settings_of(RUNTIMES.get(runtime)).items()}
        which = {"ckpt": side} if isinstance(side, str) else dict(side)
        return {"runtime": runtime, **run_in_subprocess(common | which | {"runtime": {"name": runtime, **words}})}

    return {name: [row(side, runtime) for runtime in bench_runtimes] for name, side in sides.items()}
