"""Pages of trainings and evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segzoo.checkpoints.schema import MODEL
from segzoo.device import DeviceName, Precision, PrecisionName, pick_device
from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol
from segzoo.reporting.html import render_template
from segzoo.types import Dataset, DatasetInfo, PlainDict, PlainMapping
from segzoo.workflows.compare.evaluations import read_evaluation, run_directory
from segzoo.workflows.report.page import write_page
from segzoo.workflows.report.provenance import Defaults, Facts, changed_settings
from segzoo.workflows.report.sections import Predict, evaluation_sections

if TYPE_CHECKING:
    from torch import nn

    from segzoo.training.components import TrainingComponents


def report_training(
    run: Path,
    components: TrainingComponents,
    result: PlainMapping,
    defaults: Defaults,
    *,
    report: bool = True,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
) -> None:
    """Write ``report.html`` of a training into its run directory.

    Args:
        run: the run directory.
        components: the objects of the training.
        result: the contents of ``result.json``.
        defaults: composes the configuration without overrides, to which that of the training is compared.
        report: write the page.
        device, precision: of the training.
    """

    def render() -> str:
        names = [components.config[section]["name"] for section in ("model", "backbone")]
        title = "-".join([*names, components.info.name])
        sections = training_sections(run, components, result, defaults, Precision(precision, pick_device(device)))
        return render_template("run_report.html", title=title, kind=f"Training, {run.absolute().name}", run=sections)

    write_page(run, render if report else None)


def training_sections(
    run: Path, components: TrainingComponents, result: PlainMapping, defaults: Defaults, precision: Precision
) -> PlainDict:
    """Collect the sections about the best checkpoint of a training."""
    from segzoo.config.from_checkpoint import load_checkpoint

    model, info, meta = load_checkpoint(ckpt=str(run))
    dataset = components.val_set
    speed = [
        *network_facts(model, dataset, Path(meta["path"])),
        ("training", f"{result['train_minutes']:g} minutes for {result['steps']:,} steps, {result['images_seen']:,} images"),
        ("best checkpoint", f"step {result['best_step']:,}"),
    ]
    predict = predictor(model, info, SINGLE_PASS, precision)
    changes = changed_settings(components.config, defaults())
    evaluation = read_evaluation(run / "eval", run.name)
    return evaluation_sections(evaluation, dataset, info, predict, run, result["best_step"], speed, changes)


def report_evaluation(
    folder: Path,
    model: nn.Module,
    dataset: Dataset,
    meta: PlainMapping,
    protocol: InferenceProtocol,
    defaults: Defaults,
    *,
    report: bool = True,
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
) -> None:
    """Write ``report.html`` of an evaluation into its output directory.

    Args:
        folder: the output directory, as ``write_summary`` has left it.
        model: the evaluated network.
        dataset: the scored images and labels.
        meta: metadata of the checkpoint.
        protocol: how images were predicted.
        defaults: composes the configuration of a training without overrides.
        report: write the page.
        device, precision: of the evaluation.
    """

    def render() -> str:
        evaluation = read_evaluation(folder, folder.name)
        predict = predictor(model, dataset.info, protocol, Precision(precision, pick_device(device)))
        speed = network_facts(model, dataset, Path(meta["path"]))
        title = "-".join((meta["config"]["model"]["name"], meta["config"]["backbone"]["name"], dataset.info.name))
        changes = changed_settings(evaluation.training, defaults()) if evaluation.training else []
        run = run_directory(folder)
        sections = evaluation_sections(evaluation, dataset, dataset.info, predict, run, meta.get("step"), speed, changes)
        return render_template("run_report.html", title=title, kind=f"Evaluation on {evaluation.summary['split']}", run=sections)

    write_page(folder, render if report else None)


def predictor(model: nn.Module, info: DatasetInfo, protocol: InferenceProtocol, precision: Precision) -> Predict:
    """Return a function that predicts the labels (H, W) of an image."""
    import torch

    from segzoo.inference.segment import segment_image
    from segzoo.layers.modes import eval_mode
    from segzoo.layers.normalize import normalize

    placed = precision.place(model, channels_last=True)

    def predict(pixels: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(pixels)[None]
        with eval_mode(placed):
            x = normalize(image, info, precision.device)
            return segment_image(placed, x, image, protocol, precision)[0].cpu().numpy()

    return predict


def network_facts(model: nn.Module, dataset: Dataset, file: Path) -> Facts:
    """Describe the size of a network and its work for an image.

    Of an exported file only its size is known.
    """
    from segzoo.models._base import SegModel
    from segzoo.workflows.benchmark.model_summary import model_complexity

    facts = []
    if isinstance(model, SegModel):
        height, width = dataset.image(0).shape[:2]
        size = model_complexity(model, (height, width))
        facts = [("parameters", f"{size['params']:,}"), (f"GMACs at {height}x{width}", f"{size['gmacs']:.2f}")]
    path = file / MODEL if file.is_dir() else file
    if path.is_file():
        facts.append(("file", f"{path.stat().st_size / 1e6:.1f} MB"))
    return [*facts, ("milliseconds per image", "not measured here: python tools/bench.py ckpt=<run directory>")]
