"""Train a model: ``python tools/train.py model=icnet data=cityscapes``; ``-m model=fcn,pspnet`` sweeps, ``torchrun`` spreads it."""

from __future__ import annotations

import json
from typing import Any

from segzoo.cli.app import Job, run
from segzoo.cli.training import assign_gpu, run_dry


def train(job: Job) -> dict[str, Any]:
    """Trains one model on all ranks; returns what ``result.json`` holds and a sweep's table shows."""
    from segzoo.config.build_training import build_training
    from segzoo.config.commands import arguments_for
    from segzoo.device import enable_memory_reuse
    from segzoo.distributed import init_distributed
    from segzoo.runs.open_run import open_run, open_run_distributed
    from segzoo.training.loop import train as learn
    from segzoo.workflows.prune.target_search import resolve_keep_ratio

    enable_memory_reuse()
    words = arguments_for(open_run, job.config)
    if job.output_dir is not None:  # a job of a sweep that is started again goes on, or has nothing to do
        words = {"out": str(job.output_dir), "resume": "auto" if words["resume"] == "none" else words["resume"]}
        assign_gpu(job.config)
    with init_distributed(job.config["device"]) as world:
        if job.config["dry_run"]:
            return run_dry(build_training(job.config, job.recorded), job.config)
        place = open_run_distributed(world, "train", job.title, job.config, **words)
        if place.finished:
            return json.loads((place.path / "result.json").read_text(encoding="utf-8"))
        try:
            parts = build_training(job.config, job.recorded)
            resolve_keep_ratio(parts, place.path, world, **arguments_for(resolve_keep_ratio, job.config))
            facts = _introduce(job, parts) if world.is_main else {}
            result = learn(parts, place, world, **arguments_for(learn, job.config)) | facts
        except BaseException as error:
            if world.is_main:
                place.fail(error)
            raise
        if world.is_main:
            place.finish(result)
        return result


def _introduce(job: Job, parts: Any) -> dict[str, Any]:
    """Prints what is going to be trained and what is odd about it; returns what results hold of that."""
    from segzoo.config.build import build_meta_model
    from segzoo.config.cross_checks import training_warnings
    from segzoo.data.checks import inspect_split
    from segzoo.workflows.benchmark.model_summary import describe, totals

    blank = build_meta_model(job.config, num_classes=parts.info.num_classes)
    blank.set_channel_widths_(parts.model.state_dict())  # a pruned starting point has made it narrower
    network = totals(describe(blank))
    print("{params:,} parameters, {gmacs:.1f} GMACs at 512x1024, receptive field {receptive_field}".format(**network), flush=True)
    notes = training_warnings(job.config, blank)
    for split, dataset in (("train", parts.train_set), ("val", parts.val_set)):
        notes += [f"{split}: {line}" for line in inspect_split(dataset).warnings()]
    for line in notes:
        print(f"note: {line}", flush=True)
    return {"receptive_field": network["receptive_field"]}


def main() -> None:
    """The console script ``segzoo-train``."""
    run(train, "train")


if __name__ == "__main__":
    main()
