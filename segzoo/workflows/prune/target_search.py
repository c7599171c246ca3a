"""Search for the keep ratio that meets a target latency or size."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from segzoo.device import DeviceName, Precision, PrecisionName, pick_device
from segzoo.io import write_json
from segzoo.pruning.sensitivity import RATIOS
from segzoo.registry import ConfigError
from segzoo.types import PlainDict, PlainMapping

if TYPE_CHECKING:
    from segzoo.distributed import Distributed
    from segzoo.models._base import SegModel
    from segzoo.pruning._base import CalibrationData, Pruner, Target
    from segzoo.pruning.ranking import Ranking
    from segzoo.training.components import TrainingComponents
    from segzoo.types import Dataset

MIN_RATIO = 0.05  # smallest keep ratio that is tried
MIN_BRACKET = 0.004  # difference of keep ratios at which the search ends
TOLERANCE = {"ms": 0.04, "gmacs": 0.002, "params": 0.002}  # relative distance below the target at which the search ends
MAX_TRIALS = 12
UNITS = {"ms": "ms", "gmacs": "GMACs", "params": "parameters"}


def resolve_keep_ratio(
    components: TrainingComponents,
    folder: Path,
    dist: Distributed,
    *,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
) -> None:
    """Replace the target of a training's pruner by a keep ratio.

    A pruner without a target is not changed.

    Args:
        components: of the training; its pruner is replaced.
        folder: the run directory.
        dist: the ranks; rank 0 searches.
        device, precision: of the training.
    """
    from segzoo.training.calibration import CalibrationSet

    pruner = components.pruner
    if pruner is None or pruner.target is None:
        return
    torch_device = pick_device(device)
    model = cast("SegModel", components.model.to(torch_device))  # a training takes any module, a benchmark does not
    calibration = CalibrationSet(model, components, Precision(precision, torch_device))
    sections = ("model", "backbone", "ckpt", "init", "data", "augment", "loss")
    depends_on = {name: components.config.get(name) for name in sections} | {"precision": precision}
    ratio = dist.run_on_rank0(
        lambda: search_keep_ratio(pruner, model, calibration, components.val_set, folder, device, depends_on=depends_on)
    )
    allocation = pruner.allocation
    if allocation == "sensitivity" and ratio <= min(RATIOS):  # where both are equal
        allocation = "uniform"
        if dist.is_main:
            print(
                f"note: pruner.allocation=sensitivity has the effect of uniform: the keep ratio {ratio:.1%} is below all that it scans.",
                flush=True,
            )
    components.pruner = dataclasses.replace(pruner, keep_ratios=(ratio,), allocation=allocation, target=None)


def search_keep_ratio(
    pruner: Pruner,
    model: SegModel,
    calibration: CalibrationData,
    dataset: Dataset,
    folder: Path,
    device: DeviceName,
    log: Callable[[str], None] = print,
    depends_on: PlainMapping | None = None,
) -> float:
    """Find the largest keep ratio that meets the target.

    The trials are stored in ``target_search.json``. A resumed run reuses the ratio if its target, ranking settings, model and images are the
    same, even on another device.

    Args:
        pruner: of a training, with a target.
        model: the unpruned model; it is not changed.
        calibration: of the model.
        dataset: provides the image that is timed.
        folder: the run directory.
        device: where the model is timed.
        log: called with a line per trial.
        depends_on: everything else that the ratio depends on, such as the configurations of the model and the data.

    Raises:
        ConfigError: the target cannot be met, or the unpruned model meets it.
    """
    target, path = pruner.target, folder / "target_search.json"
    assert target is not None
    key = {"target": dataclasses.asdict(target), "ranking": _ranking_settings(pruner), "of": dict(depends_on or {})}
    key = json.loads(json.dumps(key))
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if {name: stored.get(name) for name in key} == key:
        return stored["keep_ratio"]
    cost = _latency_meter(target, dataset, device) if target.kind == "ms" else _complexity_meter(target)
    ranking = pruner.ranking(model, calibration)
    trials = search(target, lambda ratio: cost(_pruned_copy(ranking, model, ratio)), log)
    best = max(ratio for ratio, value in trials.items() if value <= target.value)
    rows = [{"keep_ratio": ratio, target.kind: value} for ratio, value in sorted(trials.items())]
    write_json(path, {"keep_ratio": best, "trials": rows} | key)
    return best


def _ranking_settings(pruner: Pruner) -> PlainDict:
    """Everything that determines which channels a keep ratio removes."""
    allocation = {"how": pruner.allocation, "multiple": pruner.round_to, "exclude": pruner.exclude}
    return {"by": pruner.criterion, **pruner.settings, **allocation}


def search(target: Target, cost: Callable[[float], float], log: Callable[[str], None]) -> dict[float, float]:
    """Bracket the largest keep ratio that meets a target.

    The cost must increase with the ratio, apart from noise. Steps of false position, which converge fast where the cost is nearly linear,
    alternate with bisection, which halves the bracket where it is not (Numerical Recipes, 3rd ed., sec. 9.1 and 9.2).
    Latency is noisy, so the answer is measured a second time. If it misses the target then, the search continues below it.

    Args:
        target: the limit on the cost.
        cost: of the model pruned to a keep ratio, in the target's unit.
        log: called with a line per trial.

    Returns:
        The cost at each ratio that was tried.

    Raises:
        ConfigError: the target is missed at ``MIN_RATIO``, or met without pruning.
    """
    trials: dict[float, float] = {}
    limit, tolerated = _format_value(target.kind, target.value), target.value * (1 - TOLERANCE[target.kind])

    def meets_target(ratio: float) -> bool:
        trials[ratio] = cost(ratio)
        log(f"{ratio:.0%} of the channels: {_format_value(target.kind, trials[ratio])}, target {limit}")
        return trials[ratio] <= target.value

    if meets_target(1.0):
        raise ConfigError(
            f"pruner.target_{target.kind}={target.value:g} is already met without pruning: {_format_value(target.kind, trials[1.0])}. Set a "
            "lower target, or do not prune."
        )
    if not meets_target(MIN_RATIO):
        raise ConfigError(
            f"pruner.target_{target.kind}={target.value:g} cannot be met: with {MIN_RATIO:.0%} of the channels it is still "
            f"{_format_value(target.kind, trials[MIN_RATIO])}. Use a smaller backbone or image, a faster runtime, or a higher target."
        )
    low, high = MIN_RATIO, 1.0  # the target is met at low and missed at high
    for trial in range(MAX_TRIALS):
        weight = _false_position(target.value, trials[low], trials[high]) if trial % 2 == 0 else 0.5
        ratio = low + (high - low) * weight
        if meets_target(ratio):
            low = ratio
        else:
            high = ratio
        if trials[low] >= tolerated or high - low < MIN_BRACKET:
            if target.kind != "ms" or low == MIN_RATIO or meets_target(low):
                break
            low, high = max(ratio for ratio, value in trials.items() if value <= target.value), low
    if trials[low] < tolerated:
        log(f"no ratio between {low:.1%} and {high:.1%} gets closer to the target")
    return trials


def _false_position(limit: float, low: float, high: float) -> float:
    """Position of ``limit`` between two costs by linear interpolation.

    It stays away from both ends, so that every step narrows the bracket by a tenth or more. Costs that noise has reversed are bisected.
    """
    return min(0.9, max(0.1, (limit - low) / (high - low))) if high > low else 0.5


def _pruned_copy(ranking: Ranking, model: SegModel, keep_ratio: float) -> SegModel:
    from segzoo.pruning.surgery import remove_channels_

    pruned = copy.deepcopy(model).eval()
    remove_channels_(pruned, ranking.graph, ranking.select(keep_ratio) if keep_ratio < 1 else ())
    return pruned


def _complexity_meter(target: Target) -> Callable[[SegModel], float]:
    """A function that counts the parameters or 10^9 multiply-adds of a model."""
    from segzoo.workflows.benchmark.model_summary import model_complexity

    return lambda model: float(model_complexity(model, target.hw)[target.kind])


def _latency_meter(target: Target, dataset: Dataset, device: DeviceName) -> Callable[[SegModel], float]:
    """A function that measures the latency of a model in milliseconds.

    It is the median time from a decoded image to its labels. The first model is timed alone and becomes the reference. Each later one is timed
    interleaved with it, and its latency is the ratio of both times the median of all times of the reference so far. That way a machine that
    is slower for a while, even at the start, does not change the result.
    """
    import statistics

    from segzoo.runtimes._base import RuntimeUnavailable
    from segzoo.workflows.benchmark.runner import make_segmenter
    from segzoo.workflows.benchmark.timing import interleaved_ratio, measure
    from segzoo.workflows.benchmark.workload import benchmark_images

    torch_device, images = pick_device(device), benchmark_images(dataset, 8, hw=target.hw)
    reference: list[Callable[[], object]] = []
    reference_seconds: list[float] = []

    def milliseconds(model: SegModel) -> float:
        try:
            segment = make_segmenter(model, dataset.info, target.runtime, target.precision, images, torch_device)
        except RuntimeUnavailable as error:
            raise ConfigError(f"pruner.runtime={target.runtime}: {error}") from None
        if not reference:
            reference.append(segment)
            reference_seconds.extend(measure(segment, torch_device, max_seconds=20, ci_half_width=0.02).seconds)
            return 1000 * statistics.median(reference_seconds)
        times = interleaved_ratio(segment, reference[0], torch_device, max_seconds=20, ci_half_width=0.02)
        reference_seconds.extend(times.reference_seconds)
        return 1000 * times.ratio * statistics.median(reference_seconds)

    return milliseconds


def _format_value(kind: str, value: float) -> str:
    return f"{value:,.0f} {UNITS[kind]}" if kind == "params" else f"{value:.3g} {UNITS[kind]}"
