"""Label pictures: ``python tools/predict.py ckpt=runs/train/... source=pictures/`` writes label maps and overlays."""

from __future__ import annotations

from typing import Any

from segzoo.tools._entry import Job, run


def predict(job: Job) -> dict[str, Any]:
    """Labels every picture of the source; returns how many and where they are."""
    from segzoo import config, zoo
    from segzoo.engine.predict import predict as label
    from segzoo.engine.run import open_result

    model, card, meta = zoo.load_with_config(ckpt=job.config["ckpt"])
    with open_result("predict", zoo.title(meta), job.config, **config.words_for(open_result, job.config)) as folder:
        done = label(model, card, folder, config.build_post(job.config["post"]), **config.words_for(label, job.config))
    print(f"{done['pictures']} pictures in {done['seconds']} s: {done['folder']}")
    return done


def main() -> None:
    """The console script ``segzoo-predict``."""
    run(predict, "predict")


if __name__ == "__main__":
    main()
