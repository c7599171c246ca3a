"""Steps shared by ``tools/train.py`` and ``tools/prune.py``."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from segzoo.cli.app import Job
from segzoo.io import to_plain_containers
from segzoo.registry import AUGMENTS
from segzoo.types import PlainDict, PlainMapping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segzoo.data.checks.split_report import SplitReport
    from segzoo.distributed import Distributed
    from segzoo.training.components import TrainingComponents
    from segzoo.types import Dataset


def assign_gpu(job: Job) -> None:
    """Assign a GPU to a sweep job if there are several."""
    import torch

    from segzoo.device import gpu_names
    from segzoo.runs.locks import claim_gpu

    count = torch.cuda.device_count() if job.config["device"] != "cpu" else 0
    if job.output_dir is None and job.config["jobs_per_gpu"] > 1 and os.environ.get("RANK", "0") == "0":
        print("note: jobs_per_gpu has no effect: this is a single job. Start a sweep with -m.", flush=True)
    if job.output_dir is not None and count > 1:
        torch.cuda.set_device(claim_gpu(gpu_names(count), **job.arguments["claim_gpu"]))


def run_location(job: Job) -> PlainDict:
    """Return the arguments ``out`` and ``resume`` of a run.

    A sweep job runs in its own directory and resumes there when it is restarted.

    Raises:
        ConfigError: the directory holds the run of another job.
    """
    from segzoo.runs.resume_checks import check_same_job

    arguments = job.arguments["open_run"]
    if job.output_dir is None:
        return arguments
    check_same_job(job.output_dir, to_plain_containers(job.recorded))
    resume = "auto" if arguments["resume"] == "none" else arguments["resume"]
    return {"out": str(job.output_dir), "resume": resume}


def check_data(job: Job, components: TrainingComponents) -> list[str]:
    """Check the files of both splits before the first step.

    Prints the shares of the classes in the training set, and what ``data.val_ratio`` assigns.

    Returns:
        Remarks on them, one line each.

    Raises:
        DataError: names every error.
    """
    from segzoo.data.balance.report import class_shares, imbalance_note
    from segzoo.data.checks.check import check_splits
    from segzoo.models._base import MIN_INPUT

    splits = {"train": components.train_set, "val": components.val_set}
    is_cropped = job.config["augment"].get("crop") is not None
    reports = check_splits(splits, {"train": 1 if is_cropped else MIN_INPUT, "val": MIN_INPUT})
    train = reports["train"]
    images = "train" if train.num_read == train.num_images else f"{train.num_read} of {train.num_images} images of train"
    print(f"classes in {images}: {class_shares(train)}", flush=True)
    notes = [f"{split}: {line}" for split, report in reports.items() for line in report.warnings()]
    is_balanced = job.config["loss"].get("class_weights") is not None or job.config["sampler"]["name"] != "shuffle"
    if not is_balanced and (note := imbalance_note(train)):
        notes.append(f"train: {note}")
    notes += crop_notes(job.config["augment"], train.sizes)
    table, shared_names = describe_ratio_split(components.config["data"], splits, reports)
    print(table, end="", flush=True)
    return notes + shared_names


def crop_notes(augment: PlainMapping, sizes: Mapping[tuple[int, int], int]) -> list[str]:
    """Note a crop of which no image fills half."""
    if augment.get("crop") is None or not sizes:
        return []
    settings = {name: setting.default for name, setting in AUGMENTS.settings(augment["name"]).items()} | dict(augment)
    (height, width), scale = settings["crop"], settings["scale_range"][1] if settings["scale"] else 1
    filled = max(min(1, scale * size[0] / height) * min(1, scale * size[1] / width) for size in sizes)
    if filled >= 0.5:
        return []
    return [
        f"train: augment.crop={[height, width]} is far larger than the images: at most {filled:.0%} of a crop is image, the rest is padding. Set a smaller "
        "augment.crop."
    ]


def describe_ratio_split(
    section: PlainMapping, splits: Mapping[str, Dataset], reports: Mapping[str, SplitReport]
) -> tuple[str, list[str]]:
    """Describe what ``data.val_ratio`` has assigned to each split.

    Args:
        section: the ``data`` section.
        splits: name of each split and its data set.
        reports: what the check of the data set found in each of them.

    Returns:
        A table, and notes about names that both sides share. Both are empty if something else separates the splits.
    """
    from segzoo.data.splitting.grouping import group_names
    from segzoo.data.splitting.side_report import Side, shared_name_note, side_rows
    from segzoo.reporting.tables import markdown_table

    if section.get("val_ratio") is None:
        return "", []
    stems = {name: [dataset.name(index) for index in range(len(dataset))] for name, dataset in splits.items()}
    group_by = section.get("group_by")
    sides = {name: Side(own, group_names(own, group_by), reports[name].class_counts) for name, own in stems.items()}
    table = markdown_table(*side_rows(sides, next(iter(splits.values())).info.classes))
    note = shared_name_note(stems) if group_by is None else None
    return f"data.val_ratio={section['val_ratio']:g} assigns\n{table}", [note] if note else []


def run_dry(job: Job, components: TrainingComponents, dist: Distributed | None = None) -> PlainDict:
    """Estimate and print the memory and time of a training step.

    Includes pruning that runs before the first step.

    Args:
        job: the job with ``dry_run``.
        components: of the training.
        dist: the ranks that would train together; None for one process.
    """
    from segzoo.distributed import SINGLE_PROCESS
    from segzoo.runs.run_dir import RunDir
    from segzoo.training.components import TrainingSettings
    from segzoo.training.loop import train
    from segzoo.workflows.prune.target_search import resolve_keep_ratio

    if components.pruner is not None and components.pruner.start == 0:
        with TemporaryDirectory() as scratch:
            resolve_keep_ratio(components, Path(scratch), SINGLE_PROCESS, **job.arguments["resolve_keep_ratio"])
    dist = dist or SINGLE_PROCESS
    needs = train(components, RunDir(Path()), TrainingSettings(**job.arguments["TrainingSettings"]), dist)
    if dist.is_main:
        print(format_requirements(needs, job.config["batch_size"]))
    return needs


def format_requirements(needs: PlainMapping, batch_size: int) -> str:
    """Format the result of ``dry_run=true`` as one line.

    Args:
        needs: see ``segzoo.training.dry_run.estimate_resources``.
        batch_size: the batch size of the configuration.
    """
    hours = needs["hours"]
    duration = f"{hours:.2f} hours" if hours >= 1 else f"{60 * hours:.2g} minutes"
    line = (
        f"a step needs about {needs['peak_gb']:.2f} of {needs['have_gb']:.1f} GB and takes {needs['step_s']:.2f} s. The run takes "
        f"about {duration} without evaluations."
    )
    if needs["fits"]:
        return line
    smaller = f"batch_size={needs['batch_size']} instead of {batch_size}"
    return f"{line} It does not fit: use {smaller if batch_size > 1 else 'a smaller augment.crop, or backbone.checkpoint=true'}."
