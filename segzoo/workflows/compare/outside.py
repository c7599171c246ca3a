"""Scores of predictions and networks that segzoo did not train."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.config.build import build_split
from segzoo.config.from_checkpoint import dataset_config
from segzoo.data.splits import SplitOrAll
from segzoo.data.splitting.grouping import group_names
from segzoo.io import file_name
from segzoo.messages import unknown_name_error
from segzoo.registry import ConfigError
from segzoo.types import Dataset, PlainDict, PlainMapping
from segzoo.workflows.compare.comparison import check_names
from segzoo.workflows.compare.compatibility import distinct_evaluations, seed_groups
from segzoo.workflows.compare.evaluations import StoredEvaluation, read_evaluation

if TYPE_CHECKING:
    from torch import nn

    from segzoo.evaluation.evaluator import Evaluation

Evaluate = Callable[["nn.Module", Dataset], "Evaluation"]


def score_outside(
    stored: Sequence[StoredEvaluation],
    data: PlainMapping | None,
    out: Path,
    evaluate: Evaluate,
    *,
    runs: tuple[str, ...] = (),
    preds: dict[str, str] | None = None,
    modules: tuple[str, ...] = (),
    split: SplitOrAll | None = None,
    workers: int | Literal["auto"] = "auto",
    baseline: str | None = None,
    group_by: str | None = None,
    group_seeds: bool = True,
) -> list[StoredEvaluation]:
    """Score what no tool of segzoo has scored yet.

    Each gets an evaluation directory ``<out>/evaluations/<name>``, which later comparisons can use.

    Args:
        stored: the evaluations so far. Data and split of the first are used unless others are given.
        data: the ``data`` section, settings that change that of the reference, or None.
        out: output directory.
        evaluate: scores a network on a data set.
        runs: paths, of which those of exported files are scored.
        preds: name -> folder of index PNGs, one for each image.
        modules: ``package.module:function``, a function without arguments that returns a network, see ``OutsideNetwork``.
        split: the split to score; None means that of the reference, or ``val``.
        workers: data loading processes, as in ``evaluate_label_files``.
        baseline, group_by, group_seeds: as in ``compare_evaluations``. They are checked before anything is scored.

    Raises:
        ConfigError: there is no data set, a network cannot be built, or the baseline is unknown.
        DataError: files are missing or invalid, or an image has no group.
    """
    from segzoo.evaluation.label_files import evaluate_label_files

    exported = [file for path in runs if (file := find_exported_file(path))]
    if not exported and not preds and not modules:
        return []
    reference, taken = next(iter(stored), None), [evaluation.name for evaluation in stored]
    scored: SplitOrAll = split or (reference.summary["split"] if reference else "val")
    dataset = build_split(data_section(reference, data, scored), split=scored)
    builders: dict[str, Callable[[], nn.Module]] = {}
    for file in exported:
        builders[_free_name(_file_title(file), [*taken, *builders])] = lambda file=file: load_file(file, dataset)
    for path in modules:
        builders[_free_name(path, [*taken, *builders])] = lambda path=path: load_module(path, dataset.info.num_classes)
    if repeated := [name for name in preds or {} if name in {*taken, *builders}]:
        raise ConfigError(f"two models are named {repeated[0]}. Choose another name in preds.")
    check_names(names := [*taken, *builders, *(preds or {})])
    _check_choices(names, stored if group_seeds else (), dataset, baseline, group_by)
    networks = {name: build() for name, build in builders.items()}  # all errors come before the first evaluation
    found = []
    for name, folder in (preds or {}).items():
        found.append(_store(out, name, evaluate_label_files(Path(folder), dataset, workers), scored))
    for name, network in networks.items():
        found.append(_store(out, name, evaluate(network, dataset), scored))
    return found


def _check_choices(
    names: Sequence[str], seeds: Sequence[StoredEvaluation], dataset: Dataset, baseline: str | None, group_by: str | None
) -> None:
    """Check that the baseline exists and each image has a group.

    Args:
        names: of all evaluations.
        seeds: those that may be grouped to models of several seeds.
        dataset, baseline, group_by: as in ``score_outside``.
    """
    distinct, repeated = distinct_evaluations(seeds)
    grouped = {item.name for item in distinct}
    models = [name for name, _ in seed_groups(distinct)] + [name for name in names if name not in grouped | repeated.keys()]
    if baseline is not None and repeated.get(baseline, baseline) not in models:
        raise ConfigError(unknown_name_error("baseline", baseline, models))
    if group_by is not None:
        group_names([dataset.name(index) for index in range(len(dataset))], group_by, "group_by")


def load_file(file: Path, dataset: Dataset) -> nn.Module:
    """Load an exported file, or an ONNX file of other code.

    Raises:
        ConfigError: it cannot be loaded, or has other classes than the data.
    """
    from segzoo.config.from_export import load_exported
    from segzoo.inference.outside_network import OnnxNetwork, OutsideNetwork

    info = dataset.info
    if file.suffix.lower() == ".onnx" and not (onnx := OnnxNetwork(file, info.num_classes)).from_segzoo:
        return OutsideNetwork(onnx, info.num_classes)
    network = load_exported(file)[0]
    if network.info.classes != info.classes:
        raise ConfigError(f"{file} has the classes {', '.join(network.info.classes)}; the data has {', '.join(info.classes)}.")
    return network


def load_module(path: str, num_classes: int) -> nn.Module:
    """Build the network that a function of the user returns.

    This runs the user's code. The path comes from the command line alone, see ``untyped_code_errors``.

    Args:
        path: ``package.module:function``. Modules in the current directory are found too.
        num_classes: number of classes of the data.

    Raises:
        ConfigError: the module or the function does not exist, or it returns something else.
    """
    from torch import nn

    from segzoo.inference.outside_network import OutsideNetwork

    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that it hides no installed package
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ConfigError(
            f"modules: {path} cannot be imported: {error}. Start in the folder that holds {module.partition('.')[0]}, or set PYTHONPATH."
        ) from None
    if not callable(function):
        raise ConfigError(f"modules: {path}: the module {module} has no function {name}.")
    network = function()
    if not isinstance(network, nn.Module):
        raise ConfigError(f"modules: {path} returns {type(network).__name__}, expected a torch.nn.Module.")
    return OutsideNetwork(network, num_classes).eval()


def data_section(reference: StoredEvaluation | None, given: PlainMapping | None, split: str) -> PlainDict:
    """Return the ``data`` section of the command line or the reference."""
    if reference is None:
        if given is None or "name" not in given:
            raise ConfigError("the images and labels are unknown: none of runs has been evaluated. Set data=<name>.")
        return dict(given)
    trained, scored = (config.get("data") or {} for config in (reference.training, reference.config))
    stored = scored if "name" in scored else {**trained, **scored}
    return dataset_config({"config": {"data": stored or None}, "dataset": {"classes": reference.classes}}, given, split)


def _store(out: Path, name: str, evaluation: Evaluation, split: str) -> StoredEvaluation:
    from segzoo.evaluation.report import write_summary

    folder = next(path for path in _numbered(out / "evaluations" / file_name(name)) if not path.exists())
    write_summary(folder, evaluation, split=split)
    return read_evaluation(folder, name)


def _numbered(path: Path) -> Iterator[Path]:
    """Yield a path, then the same with a number."""
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))


def _file_title(file: Path) -> str:
    """Name of a file, or of its folder if all have it."""
    return file.absolute().parent.name if file.stem in ("model", "bundle") else file.stem


def _free_name(name: str, taken: Collection[str]) -> str:
    candidates = itertools.chain([name], (f"{name} {number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)
