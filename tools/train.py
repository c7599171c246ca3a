"""Train a model: ``python tools/train.py model=icnet data=cityscapes``; ``-m model=fcn,pspnet`` sweeps, ``torchrun`` spreads it."""

from __future__ import annotations

import json
from typing import Any

from segzoo.tools._entry import Job, run
from segzoo.tools._learn import rehearsed, take_gpu


def train(job: Job) -> dict[str, Any]:
    """Trains one model on all ranks; returns what ``result.json`` holds and a sweep's table shows."""
    from segzoo import config
    from segzoo.aim import settle
    from segzoo.engine.device import reuse_memory
    from segzoo.engine.run import open_run
    from segzoo.engine.together import open_together
    from segzoo.engine.train import train as learn
    from segzoo.engine.world import joined

    reuse_memory()
    words = config.words_for(open_run, job.config)
    if job.folder is not None:  # a job of a sweep that is started again goes on, or has nothing to do
        words = {"out": str(job.folder), "resume": "auto" if words["resume"] == "none" else words["resume"]}
        take_gpu(job.config)
    with joined(job.config["device"]) as world:
        if job.config["dry"]:
            return rehearsed(config.build_training(job.config, job.recorded), job.config)
        place = open_together(world, "train", job.title, job.config, **words)
        if place.finished:
            return json.loads((place.folder / "result.json").read_text(encoding="utf-8"))
        try:
            parts = config.build_training(job.config, job.recorded)
            settle(parts, place.folder, world, **config.words_for(settle, job.config))
            facts = _introduce(job, parts) if world.is_main else {}
            result = learn(parts, place, world, **config.words_for(learn, job.config)) | facts
        except BaseException as error:
            if world.is_main:
                place.fail(error)
            raise
        if world.is_main:
            place.finish(result)
        return result


def _introduce(job: Job, parts: Any) -> dict[str, Any]:
    """Prints what is going to be trained and what is odd about it; returns what results hold of that."""
    from segzoo import zoo
    from segzoo.data.verify import verify
    from segzoo.describe import describe, sums
    from segzoo.rules import doubts

    blank = zoo.blank_model(job.config, classes=parts.card.num_classes)
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
