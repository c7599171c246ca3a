"""How many channels may stay so that a network meets a target of time, of operations or of parameters."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segzoo.io import write_json
from segzoo.registry import ConfigError

if TYPE_CHECKING:
    from segzoo.distributed import Distributed
    from segzoo.pruning._base import Pruner, Ranking, Target
    from segzoo.training.components import TrainingComponents
    from segzoo.types import Dataset

MIN_RATIO = 0.05  # share of the channels below which nothing is tried
TOLERANCE = {"ms": 0.04, "gmacs": 0.002, "params": 0.002}  # relative distance below the target at which the search ends
MAX_TRIALS = 12
UNITS = {"ms": "ms", "gmacs": "GMACs", "params": "parameters"}


def resolve_keep_ratio(
    parts: TrainingComponents,
    folder: Path,
    world: Distributed,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
) -> None:
    """Gives the pruner of a training that has a target the share that meets it; rank 0 searches.

    Args:
        parts: of the training.
        folder: the run's.
        world: the ranks.
        device, precision: as the training takes them.
    """
    from segzoo.device import Precision, pick_device
    from segzoo.training.calibration import CalibrationSet

    pruner = parts.pruner
    if pruner is not None and pruner.target is not None:
        place = pick_device(device)
        evidence = CalibrationSet(parts.model.to(place), parts, Precision(precision, place))
        sections = ("model", "backbone", "ckpt", "init", "data", "augment", "loss")
        of = {name: parts.config.get(name) for name in sections} | {"precision": precision}
        share = world.run_on_rank0(lambda: search_keep_ratio(pruner, parts.model, evidence, parts.val_set, folder, device, of=of))
        parts.pruner = dataclasses.replace(pruner, shares=(share,), target=None)


def search_keep_ratio(
    pruner: Pruner,
    model: Any,
    evidence: Any,
    data: Dataset,
    folder: Path,
    device: str,
    say: Callable[[str], None] = print,
    of: Mapping[str, Any] | None = None,
) -> float:
    """The largest share of the channels with which a network meets the pruner's target.

    What was tried is kept in ``aim.json``, which a resumed run reads instead of measuring again if it has the same target, ranks by the
    same settings and is of the same network and images; on another device it keeps the share that it has.

    Args:
        pruner: of a training; has a target.
        model: the network before it is pruned; left as it is.
        evidence: of what it does on training images, for pruners that ask.
        data: gives the image that is timed.
        folder: the run's.
        device: where it is timed, as configurations name it.
        say: is told each try in a line.
        of: what else the answer depends on, in plain containers: the network, the images.

    Raises:
        ConfigError: the target cannot be met, or is met already.
    """
    target, kept = pruner.target, folder / "target_search.json"
    assert target is not None
    wanted = {"target": dataclasses.asdict(target), "ranks": _ranks(pruner), "of": dict(of or {})}
    wanted = json.loads(json.dumps(wanted))
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    if {key: known.get(key) for key in wanted} == wanted:
        return known["share"]
    value = _clock(target, data, device) if target.kind == "ms" else partial(_counted, target)
    ranking = pruner.ranking(model, evidence)
    tried = search(target, lambda share: value(_pruned(ranking, model, share)), say)
    share = max(share for share, value in tried.items() if value <= target.value)
    rows = [{"share": share, target.kind: value} for share, value in sorted(tried.items())]
    write_json(kept, {"share": share, "tried": rows} | wanted)
    return share


def _ranks(pruner: Pruner) -> dict[str, Any]:
    """What decides which channels a share drops: the ranking, by name and with its own settings, and how shares are dealt out."""
    rank = pruner.importance if isinstance(pruner.importance, partial) else partial(pruner.importance)
    name = getattr(rank.func, "__name__", str(rank.func))
    return {"by": name, **rank.keywords, "how": pruner.allocation, "multiple": pruner.round_to, "exclude": pruner.exclude}


def search(target: Target, value: Callable[[float], float], say: Callable[[str], None]) -> dict[float, float]:
    """Shares tried and what each came to; the last ones enclose the target ever more closely from both sides.

    Args:
        target: not to be exceeded.
        value: what a share comes to; grows with it, apart from noise.
        say: is told each try in a line.
    """
    tried: dict[float, float] = {}

    def take(share: float) -> float:
        tried[share] = value(share)
        say(
            f"{share:.0%} of the channels: {_format_value(target.kind, tried[share])}, wanted {_format_value(target.kind, target.value)}"
        )
        return tried[share]

    if take(1.0) <= target.value:
        raise ConfigError(
            f"pruner.target_{target.kind}={target.value:g} is met already: {_format_value(target.kind, tried[1.0])}. Ask for less, or do not prune."
        )
    if take(MIN_RATIO) > target.value:
        raise ConfigError(
            f"pruner.target_{target.kind}={target.value:g} cannot be met: with {MIN_RATIO:.0%} of the channels it is still "
            f"{_format_value(target.kind, tried[MIN_RATIO])}. Take a smaller backbone or image, a faster runtime, or a higher target."
        )
    low, high = MIN_RATIO, 1.0
    for turn in range(MAX_TRIALS):
        between = (target.value - tried[low]) / (tried[high] - tried[low]) if turn % 2 == 0 and tried[high] > tried[low] else 0.5
        share = low + (high - low) * min(0.9, max(0.1, between))  # along the line and in the middle by turns
        if take(share) <= target.value:
            low = share
        else:
            high = share
        if tried[low] < target.value * (1 - TOLERANCE[target.kind]) and high - low >= 0.004:
            continue
        if target.kind != "ms" or low == MIN_RATIO or take(low) <= target.value:  # times are noisy: the answer is measured twice
            break
        high, low = low, max(share for share, value in tried.items() if value <= target.value)
    if tried[low] < target.value * (1 - TOLERANCE[target.kind]):
        say(f"no share between {low:.1%} and {high:.1%} came closer to what was wanted")
    return tried


def _pruned(ranking: Ranking, model: Any, share: float) -> Any:
    """A copy that has lost channels."""
    from segzoo.pruning.surgery import remove_channels_

    cut = copy.deepcopy(model).eval()
    remove_channels_(cut, ranking.channels, ranking.select(share) if share < 1 else ())
    return cut


def _counted(target: Target, model: Any) -> float:
    """Parameters or 10^9 multiply-adds of a network."""
    from segzoo.workflows.benchmark.model_summary import model_complexity

    return float(model_complexity(model, target.hw)[target.kind])


def _clock(target: Target, data: Dataset, device: str) -> Callable[[Any], float]:
    """What gives a network's median milliseconds of an image, from bytes to labels.

    The first network that is asked for is timed alone. Each later one is timed in turns with it, and its time is their ratio times the
    median of all the first one's times so far: a machine that is slower for a minute moves no answer, be it the first minute.
    """
    import statistics

    from segzoo.device import pick_device
    from segzoo.runtimes._base import RuntimeUnavailable
    from segzoo.workflows.benchmark.runner import make_segmenter
    from segzoo.workflows.benchmark.timing import interleaved_ratio, measure
    from segzoo.workflows.benchmark.workload import benchmark_images

    place, pictures = pick_device(device), benchmark_images(data, 8, hw=target.hw)
    whole: list[Callable[[], object]] = []
    seconds: list[float] = []  # of the whole network, whenever it ran

    def milliseconds(model: Any) -> float:
        try:
            once = make_segmenter(model, data.info, target.runtime, target.precision, pictures, place)
        except RuntimeUnavailable as error:
            raise ConfigError(f"pruner.runtime={target.runtime}: {error}") from None
        if not whole:
            whole.append(once)
            seconds.extend(measure(once, place, max_seconds=20, ci_half_width=0.02).seconds)
            return 1000 * statistics.median(seconds)
        found = interleaved_ratio(once, whole[0], place, max_seconds=20, interval=0.02)
        seconds.extend(found.others)
        return 1000 * found.ratio * statistics.median(seconds)

    return milliseconds


def _format_value(kind: str, value: float) -> str:
    return f"{value:,.0f} {UNITS[kind]}" if kind == "params" else f"{value:.3g} {UNITS[kind]}"
