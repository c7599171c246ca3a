"""Train a model: ``python tools/train.py model=icnet data=cityscapes``; ``-m model=fcn,pspnet`` sweeps."""

from __future__ import annotations

from typing import Any

from segzoo.tools._entry import Job, run


def train(job: Job) -> dict[str, Any]:
    """Trains one model and returns what a sweep's table shows of it."""
    from segzoo import config
    from segzoo.engine.run import open_run
    from segzoo.engine.train import train

    words = config.words_for(open_run, job.config)
    if job.folder is not None:
        words["out"] = str(job.folder)
    place = open_run("train", job.title, job.config, **words)
    if place.finished:
        return place.result
    try:
        parts = config.build_training(job.config, job.recorded)
        result = train(parts, place, **config.words_for(train, job.config))
    except BaseException as error:
        place.fail(error)
        raise
    place.finish(result)
    return result


def main() -> None:
    run(train, "train")


if __name__ == "__main__":
    main()
