"""Train a model: ``python tools/train.py model=icnet data=cityscapes``; ``-m model=fcn,pspnet`` sweeps."""

from __future__ import annotations

import json
from typing import Any

from segzoo.tools._entry import Job, run


def train(job: Job) -> dict[str, Any]:
    """Trains one model; returns what ``result.json`` holds and a sweep's table shows."""
    from segzoo import config, zoo
    from segzoo.data.verify import verify
    from segzoo.describe import describe, sums
    from segzoo.engine.device import reuse_memory
    from segzoo.engine.run import open_run
    from segzoo.engine.train import train as learn
    from segzoo.rules import doubts

    reuse_memory()
    words = config.words_for(open_run, job.config)
    if job.folder is not None:
        words["out"] = str(job.folder)
    place = open_run("train", job.title, job.config, **words)
    if place.finished:
        return json.loads((place.folder / "result.json").read_text(encoding="utf-8"))
    try:
        parts = config.build_training(job.config, job.recorded)
        blank = zoo.blank_model(job.config, classes=parts.card.num_classes)
        network = sums(describe(blank))
        print("{params:,} parameters, {gmacs:.1f} GMACs at 512x1024, receptive field {receptive_field}".format(**network), flush=True)
        for line in doubts(job.config, blank):
            print(f"note: {line}", flush=True)
        for split, dataset in (("train", parts.train_set), ("val", parts.val_set)):
            for line in verify(dataset).warnings():
                print(f"{split}: {line}", flush=True)
        result = learn(parts, place, **config.words_for(learn, job.config))
        result["receptive_field"] = network["receptive_field"]
    except BaseException as error:
        place.fail(error)
        raise
    place.finish(result)
    return result


def main() -> None:
    """The console script ``segzoo-train``."""
    run(train, "train")


if __name__ == "__main__":
    main()
