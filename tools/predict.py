"""Label images: ``python tools/predict.py ckpt=runs/train/... source=pictures/`` writes label maps and overlays."""

from __future__ import annotations

from typing import Any

from segzoo.cli.app import Job, run


def predict(job: Job) -> dict[str, Any]:
    """Labels every image of the source; returns how many and where they are."""
    from segzoo.config.build import build_post
    from segzoo.config.commands import arguments_for
    from segzoo.config.from_checkpoint import checkpoint_title, load_checkpoint
    from segzoo.inference.predictor import predict_images as label
    from segzoo.runs.open_run import create_output_dir

    model, info, meta = load_checkpoint(ckpt=job.config["ckpt"])
    with create_output_dir("predict", checkpoint_title(meta), job.config, **arguments_for(create_output_dir, job.config)) as folder:
        done = label(model, info, folder, build_post(job.config["post"]), **arguments_for(label, job.config))
    print(f"{done['pictures']} images in {done['seconds']} s: {done['folder']}")
    return done


def main() -> None:
    """The console script ``segzoo-predict``."""
    run(predict, "predict")


if __name__ == "__main__":
    main()
