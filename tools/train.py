"""Train a model: ``python tools/train.py model=icnet data=cityscapes``; ``-m model=fcn,pspnet`` sweeps, ``torchrun`` spreads it."""

from __future__ import annotations

import json
from typing import Any

from segzoo.cli.app import Job, run
from segzoo.cli.training import rehearsed, take_gpu


def train(job: Job) -> dict[str, Any]:
    """Trains one model on all ranks; returns what ``result.json`` holds and a sweep's table shows."""
    from segzoo.config.build_training import build_training
    from segzoo.config.commands import words_for
    from segzoo.device import reuse_memory
    from segzoo.distributed import joined
    from segzoo.runs.open_run import open_run, open_together
    from segzoo.training.loop import train as learn
    from segzoo.workflows.prune.target_search import settle

    reuse_memory()
    words = words_for(open_run, job.config)
    if job.folder is not None:  # a job of a sweep that is started again goes on, or has nothing to do
        words = {"out": str(job.folder), "resume": "auto" if words["resume"] == "none" else words["resume"]}
        take_gpu(job.config)
    with joined(job.config["device"]) as world:
        if job.config["dry"]:
            return rehearsed(build_training(job.config, job.recorded), job.config)
        place = open_together(world, "train", job.title, job.config, **words)
        if place.finished:
            return json.loads((place.folder / "result.json").read_text(encoding="utf-8"))
        try:
            parts = build_training(job.config, job.recorded)
            settle(parts, place.folder, world, **words_for(settle, job.config))
            facts = _introduce(job, parts) if world.is_main else {}
            result = learn(parts, place, world, **words_for(learn, job.config)) | facts
        except BaseException as error:
            if world.is_main:
                place.fail(error)
            raise
        if world.is_main:
            place.finish(result)
        return result


def _introduce(job: Job, parts: Any) -> dict[str, Any]:
    """Prints what is going to be trained and what is odd about it; returns what results hold of that."""
    from segzoo.config.build import blank_model
    from segzoo.config.cross_checks import doubts
    from segzoo.data.checks import verify
    from segzoo.workflows.benchmark.model_summary import describe, sums

    blank = blank_model(job.config, classes=parts.card.num_classes)
    blank.narrow_(parts.model.state_dict())  # a pruned starting point has made it narrower
    network = sums(describe(blank))
    print("{params:,} parameters, {gmacs:.1f} GMACs at 512x1024, receptive field {receptive_field}".format(**network), flush=True)
    notes = doubts(job.config, blank)
    for split, dataset in (("train", parts.train_set), ("val", parts.val_set)):
        notes += [f"{split}: {line}" for line in verify(dataset).warnings()]
    for line in notes:
        print(f"note: {line}", flush=True)
    return {"receptive_field": network["receptive_field"]}


def main() -> None:
    """The console script ``segzoo-train``."""
    run(train, "train")


if __name__ == "__main__":
    main()
