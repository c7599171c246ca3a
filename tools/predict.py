"""Segment images: ``python tools/predict.py ckpt=runs/train/... source=images/``.

Writes label maps and overlays of images, videos and cameras, and a table of what they show. ``torchrun`` shares images among processes.
"""

from __future__ import annotations

from typing import Any

from segzoo.cli.app import Job, run

FAILED = 3  # exit code if an image fails by fail_if; 1 is an error


def predict(job: Job) -> dict[str, Any]:
    """Segment every image of the source.

    Returns:
        The number of images, the seconds and the output directory.
    """
    from segzoo.config.checks.runtime import runtime_notes
    from segzoo.config.from_checkpoint import checkpoint_title, image_patterns
    from segzoo.config.from_export import network_protocol, run_as_configured
    from segzoo.config.from_weights import load_trained
    from segzoo.distributed import SHARDED_TIMEOUT, init_distributed
    from segzoo.inference.engines.choice import runs_on_ray
    from segzoo.inference.outputs.result_files import plan_results
    from segzoo.inference.predictor import predict_images
    from segzoo.inference.sources.opening import open_source
    from segzoo.io import write_json
    from segzoo.runs.output_dir import create_prediction_dir, on_all_ranks

    if runs_on_ray(**job.arguments["runs_on_ray"]):
        return _predict_on_ray(job)
    with init_distributed(job.config["device"], SHARDED_TIMEOUT) as dist:
        loaded, info, meta = load_trained(job.config, **job.arguments["load_trained"])
        protocol, notes = network_protocol(job.config, loaded, info, meta, **job.arguments["with_threshold"])
        options, location = job.arguments["open_source"], job.arguments["create_prediction_dir"]
        directory = create_prediction_dir(checkpoint_title(meta), job.recorded, meta["sha256"], **location)
        with on_all_ranks(dist, directory, job.recorded) as output_dir:
            files = plan_results(info, output_dir.path, **job.arguments["plan_results"])
            # the other ranks might already see further images
            folder, pixels = output_dir, (info.pixels, image_patterns(meta))
            source = dist.run_on_rank0(lambda: open_source(folder.path, folder.resumed, *pixels, **options))
            model, device = run_as_configured(job.config, loaded)
            for note in [*notes, *runtime_notes(job.config, device == "cuda", source.total)] if dist.is_main else ():
                print(f"note: {note}", flush=True)
            arguments: dict[str, Any] = job.arguments["predict_images"] | {"device": device}
            result = predict_images(model, info, source, files, protocol, output_dir.resumed, dist, **arguments)
            if not dist.is_main:
                return {}
            write_json(output_dir.path / "predict.json", result)
    _print_result(result)
    return result | ({"exit_code": FAILED} if result.get("failed") else {})


def _predict_on_ray(job: Job) -> dict[str, Any]:
    """Label the images of a folder or URL on a Ray cluster."""
    from segzoo.config.from_checkpoint import image_patterns
    from segzoo.config.from_export import network_protocol
    from segzoo.config.from_weights import load_trained
    from segzoo.inference.engines.ray_data import predict_with_ray
    from segzoo.models._base import SegModel
    from segzoo.registry import ConfigError

    model, info, meta = load_trained(job.config, **job.arguments["load_trained"])
    if len(patterns := image_patterns(meta)) > 1:
        raise ConfigError(f"engine=ray reads one file per image, and this network takes {', '.join(patterns)}. Use engine=local.")
    protocol, notes = network_protocol(job.config, model, info, meta, **job.arguments["with_threshold"])
    for note in notes:
        print(f"note: {note}", flush=True)
    if isinstance(model, SegModel):
        model.fuse_for_inference_()  # so that the labels are those of engine=local
    identity = {"checkpoint_sha256": meta["sha256"], "protocol": protocol.to_dict(), "precision": job.config["precision"]}
    source, out = str(job.config["source"]), str(job.config["out"])
    result = predict_with_ray(model, info, protocol, source, out, identity, **job.arguments["predict_with_ray"])
    print(f"{result['images']} images ({result['done_before']} of them before): {result['folder']}")
    return result


def _print_result(result: dict[str, Any]) -> None:
    """Print what a few images show, and the summary."""
    from segzoo.reporting.numbers import format_count

    for sentence in [*result.get("sentences", ()), *result["skipped"], *result["notes"]]:
        print(sentence)
    before = f" ({result['done_before']} of them before)" if result["done_before"] else ""
    rate = f"{result['images_per_second']:.3g} images/s, limited by {result['limited_by']}"
    print(f"{format_count(result['images'], 'image')}{before} in {result['seconds']} s ({rate}): {result['folder']}")
    if "failed" in result:
        print(f"{result['failed']} of {result['images']} images fail, see {result['folder']}/images.csv")
    if "submission" in result:
        print(f"to upload: {result['submission']}")


def main() -> None:
    """Entry point of the console script ``segzoo-predict``."""
    run(predict, "predict")


if __name__ == "__main__":
    main()
