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
from segzoo.workflows.benchmark.model_summary import counted
from segzoo.workflows.benchmark.runner import measured_apart

if TYPE_CHECKING:
    from segzoo.pruning.sensitivity import Curve
    from segzoo.training.components import Parts


Side = Annotated[int, Range(33, 8192)]


def stages(
    parts: Parts,
    folder: Path,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    workers: Annotated[int, Range(0)] = 2,
    timed_hw: tuple[Side, Side] = (1024, 2048),
    curves: bool = True,
) -> tuple[list[dict[str, Any]], Sequence[Curve]]:
    """Scores a network before anything happens to it and, if its first stage of pruning comes before any step, right after that.

    What is found is kept in ``stages.json``, which a resumed run reads instead of looking again if it would look at the same network in
    the same way.

    Args:
        parts: of the training that will fine-tune it; its model is left as it is, on the device, and its pruner learns what its first
            stage removes, if that comes before any step.
        folder: the run's.
        device, precision, workers: as the training takes them.
        timed_hw: height and width for which operations are counted.
        curves: look how much each layer's channels matter, which runs the network on some training pictures again and again.

    Returns:
        Rows for ``write_report``, and the curves.
    """
    from segzoo.device import Precision, pick_device
    from segzoo.evaluation.evaluator import evaluate
    from segzoo.pruning.sensitivity import Curve, scan
    from segzoo.pruning.surgery import cut_
    from segzoo.training.calibration import Evidence

    kept = folder / "stages.json"
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    looked = _looked(parts, precision=precision, timed_hw=timed_hw, curves=curves)
    if known.get("looked") == looked:
        if parts.pruner is not None and known["chosen"] is not None:
            parts.pruner = replace(parts.pruner, chosen=frozenset(known["chosen"]))
        return known["rows"], [Curve.from_dict(curve) for curve in known["curves"]]
    place = pick_device(device)
    model, evidence = parts.model.to(place), Evidence(parts.model, parts, Precision(precision, place))

    def row(what: str, network: Any) -> dict[str, Any]:
        found = evaluate(network, parts.val_set, parts.card, device=device, precision=precision, workers=workers)
        return {"what": what, "miou": found.scores.miou, "miou_interval": found.interval} | _sized(network, timed_hw)

    rows, pruner, drawn, gone = [row("before", model)], parts.pruner, [], None
    if pruner is not None and (curves or pruner.start == 0):
        ranking = pruner.ranking(model, evidence)
        if pruner.start == 0:
            gone, cut = ranking.dropped(pruner.shares[0]), copy.deepcopy(model)
            cut_(cut, ranking.channels, gone)
            rows.append(row("pruned", cut))
            parts.pruner = replace(pruner, chosen=frozenset(gone))
        drawn = list(ranking.curves)
        if curves and not drawn:
            drawn = scan(model, ranking.channels, ranking.worth, evidence.loss, pruner.exclude)
    chosen = None if gone is None else sorted(gone)
    write_json(kept, {"looked": looked, "rows": rows, "curves": [asdict(curve) for curve in drawn], "chosen": chosen})
    return rows, drawn


def _looked(parts: Parts, **words: Any) -> dict[str, Any]:
    """Everything on which the rows and curves of ``stages`` depend, as JSON gives it back; not the device, on which they may go on."""
    from segzoo.checkpoints.serialization import fingerprint

    sections = {name: parts.config.get(name) for name in ("pruner", "data", "augment", "loss")}
    shares = None if parts.pruner is None else parts.pruner.shares
    return json.loads(json.dumps(sections | words | {"network": fingerprint(parts.model), "shares": shares}))


def tuned_row(run: Path, *, timed_hw: tuple[Side, Side] = (1024, 2048)) -> dict[str, Any]:
    """The row of what a finished training came to: its best checkpoint's."""
    summary = json.loads((run / "eval" / "summary.json").read_text(encoding="utf-8"))
    scores = {key: summary[key] for key in ("miou", "miou_interval")}
    return {"what": "fine-tuned"} | scores | _sized(load(run), timed_hw)


def _sized(model: Any, hw: tuple[int, int]) -> dict[str, Any]:
    """Parameters and operations as ``describe`` counts them, training-only heads left out."""
    totals = counted(model, hw)
    return {key: totals[key] for key in ("params", "gmacs")}


def timed_rows(
    sides: Mapping[str, str | Mapping[str, Any]],
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    timed: tuple[str, ...] = ("eager", "openvino"),
    timed_precision: Literal["fp32", "bf16", "fp16", "int8"] = "bf16",
    timed_hw: tuple[Side, Side] = (1024, 2048),
) -> dict[str, list[dict[str, Any]]]:
    """Times networks in several runtimes, each in a process of its own, one picture from bytes to labels.

    Args:
        sides: by what they are called, run folders or files; or ``model``, ``backbone``, ``data`` and ``classes``, as the bench takes
            them, of a network with random weights.
        device: where.
        timed: runtimes; one that is not installed or not able says so in its row. None times nothing.
        timed_precision: number format.
        timed_hw: height and width of the picture in pixels.

    Returns:
        Rows as the bench gives them, by name and in the order of the runtimes.
    """
    common = {
        "model": None,
        "backbone": None,
        "data": None,
        "ckpt": None,
        "precision": timed_precision,
        "hw": timed_hw,
        "device": device,
    }
    common |= {"batch": 1, "scope": "net+labels", "seconds": 10.0, "interval": 0.03}

    def row(side: str | Mapping[str, Any], runtime: str) -> dict[str, Any]:
        words = {name: setting.default for name, setting in settings_of(RUNTIMES.get(runtime)).items()}
        which = {"ckpt": side} if isinstance(side, str) else dict(side)
        return {"runtime": runtime, **measured_apart(common | which | {"runtime": {"name": runtime, **words}})}

    return {name: [row(side, runtime) for runtime in timed] for name, side in sides.items()}
