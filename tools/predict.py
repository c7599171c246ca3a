"""Segment images: ``python tools/predict.py ckpt=runs/train/... source=images/``.

Writes label maps and overlays.
"""

from __future__ import annotations

from typing import Any

from segzoo.cli.app import Job, run


def predict(job: Job) -> dict[str, Any]:
    """Segment every image of the source.

    Returns:
        The number of images, the seconds and the output directory.
    """
    from segzoo.config.from_checkpoint import checkpoint_title
    from segzoo.config.from_export import network_protocol
    from segzoo.config.from_weights import load_trained
    from segzoo.inference.predictor import predict_images
    from segzoo.io import write_json
    from segzoo.runs.output_dir import create_output_dir

    model, info, meta = load_trained(job.config, **job.arguments["load_trained"])
    protocol, notes = network_protocol(job.config, model, info, meta, **job.arguments["add_threshold"])
    for note in notes:
        print(f"note: {note}", flush=True)
    options = job.arguments["create_output_dir"]
    with create_output_dir(
        "predict", checkpoint_title(meta), job.recorded, checkpoint_sha256=meta["sha256"], **options
    ) as output_dir:
        result = predict_images(model, info, output_dir.path, protocol, output_dir.resumed, **job.arguments["predict_images"])
        write_json(output_dir.path / "predict.json", result)
    for sentence in result["skipped"]:
        print(sentence)
    before = f" ({result['done_before']} of them before)" if result["done_before"] else ""
    print(f"{result['images']} images{before} in {result['seconds']} s: {result['folder']}")
    if "submission" in result:
        print(f"to upload: {result['submission']}")
    return result


def main() -> None:
    """Entry point of the console script ``segzoo-predict``."""
    run(predict, "predict")


if __name__ == "__main__":
    main()
