"""Prune and fine-tune a model: ``python tools/prune.py ckpt=runs/first pruner=l1 pruner.keep_ratio=0.5``.

With ``model=pspnet data=camvid`` instead of ``ckpt``, it starts from the same model as ``tools/train.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from segzoo.cli.app import Job, run
from segzoo.cli.training import assign_gpu, check_data, run_dry, run_location
from segzoo.registry import ConfigError


def prune(job: Job) -> dict[str, Any]:
    """Prune and fine-tune one model.

    Returns:
        The contents of ``result.json``, with the rows of the report.
    """
    from segzoo.cli.compose import default_config
    from segzoo.config.build_training import build_training, open_loggers
    from segzoo.config.from_checkpoint import checkpoint_title, initial_model
    from segzoo.device import Precision, configure_allocator, pick_device
    from segzoo.distributed import SINGLE_PROCESS
    from segzoo.runs.open_run import open_run
    from segzoo.training.components import TrainingSettings
    from segzoo.training.loop import train
    from segzoo.workflows.prune.report import write_report
    from segzoo.workflows.prune.stages import benchmark_before_after, evaluate_stages, finetuned_result
    from segzoo.workflows.prune.target_search import resolve_keep_ratio
    from segzoo.workflows.report.run_page import training_sections

    configure_allocator(**job.arguments["configure_allocator"])
    assign_gpu(job)
    model, meta = initial_model(job.config, **job.arguments["initial_model"])
    job = _with_checkpoint_config(job, meta)
    widths = None if model is None else meta["widths"]
    if job.config["dry_run"]:
        return run_dry(job, build_training(job.config, job.recorded, model, widths))
    with open_run("prune", checkpoint_title(meta), job.recorded, **run_location(job)) as run_dir:
        if run_dir.finished:
            return run_dir.result
        components = build_training(job.config, job.recorded, model, widths)
        for line in check_data(job, components):
            print(f"note: {line}", flush=True)
        resolve_keep_ratio(components, run_dir.path, SINGLE_PROCESS, **job.arguments["resolve_keep_ratio"])
        rows, curves = evaluate_stages(components, run_dir.path, **job.arguments["evaluate_stages"])
        with open_loggers(job.config["logger"], run_dir, components.config, SINGLE_PROCESS) as loggers:
            settings = TrainingSettings(**job.arguments["TrainingSettings"])
            result = train(components, run_dir, settings, SINGLE_PROCESS, loggers)
            rows.append(finetuned_result(run_dir.path, **job.arguments["finetuned_result"]))
            models = {"before": _unpruned(job.config, meta), "after": str(run_dir.path)}
            times = benchmark_before_after(models, **job.arguments["benchmark_before_after"])
            result |= {"checkpoint_sha256": meta["sha256"], "report": rows, "times": times}
            precision = Precision(settings.precision, pick_device(settings.device))
            training = partial(training_sections, run_dir.path, components, result, partial(default_config, "prune"), precision)
            report = write_report(run_dir.path, rows, times, curves, training, **job.arguments["write_report"])
            run_dir.finish(result)
            loggers.results(result)
        print(report)
        return result


def _with_checkpoint_config(job: Job, meta: Mapping[str, Any]) -> Job:
    """Fill in the checkpoint's sections and check the result as a training.

    Raises:
        ConfigError: settings that cannot work together, or data with another normalization than the checkpoint.
    """
    from segzoo.config.cross_checks import pruning_warnings, training_errors
    from segzoo.config.from_checkpoint import dataset_config

    config, recorded = dict(job.config), dict(job.recorded)
    if config["ckpt"] is not None:
        sections = {name: meta["config"][name] for name in ("model", "backbone")}
        config |= sections | {"data": dataset_config(meta, config.get("data"))}
        recorded |= sections | {"data": _recorded_data(job.recorded.get("data"), meta["config"]["data"])}
        config["backbone"] = {**sections["backbone"], "weights": "none"}
        if config["distill"]["name"] == "teacher" and config["distill"]["ckpt"] is None:
            config["distill"] = {**config["distill"], "ckpt": config["ckpt"]}
    if errors := training_errors(config):
        raise ConfigError(errors)
    for line in pruning_warnings(config["pruner"]):
        print(f"note: {line}", flush=True)
    return replace(job, config=config, recorded=recorded)


def _recorded_data(given: dict[str, Any] | None, stored: dict[str, Any]) -> dict[str, Any]:
    """Return the given data section over the stored one."""
    return given if given and "name" in given else stored | (given or {})


def _unpruned(config: dict[str, Any], meta: Mapping[str, Any]) -> str | dict[str, Any]:
    """Return the model before pruning, in the form that benchmarks take.

    It is the path of the checkpoint or, without one, the sections of the same model without pretrained weights.
    """
    if config["ckpt"] is not None:
        return config["ckpt"]
    backbone = {**config["backbone"], "weights": "none"}  # latency does not depend on weights
    num_classes = len(meta["dataset"]["classes"])
    return {"model": config["model"], "backbone": backbone, "data": config["data"], "num_classes": num_classes}


def main() -> None:
    """Entry point of the console script ``segzoo-prune``."""
    run(prune, "prune")


if __name__ == "__main__":
    main()
