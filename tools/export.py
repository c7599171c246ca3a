"""Export a checkpoint for other programs: ``python tools/export.py ckpt=runs/first format=onnx``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segzoo.cli.app import Job, run


def export(job: Job) -> dict[str, Any]:
    """Export a checkpoint and check it on images of its data.

    Returns:
        The contents of ``export.json``: the files, and the agreement with the original model.
    """
    from segzoo.checkpoints.serialization import read_scores
    from segzoo.config.build import build_data
    from segzoo.config.from_checkpoint import checkpoint_title, dataset_config, image_patterns, load_checkpoint, training_crop
    from segzoo.config.images import choose_images
    from segzoo.export.exporter import LabeledImages, export_model
    from segzoo.inference.protocol import SINGLE_PASS
    from segzoo.inference.threshold import with_threshold
    from segzoo.io import write_json
    from segzoo.runs.output_dir import create_output_dir

    model, info, meta = load_checkpoint(**job.arguments["load_checkpoint"])
    threshold = with_threshold(SINGLE_PASS, info, **job.arguments["with_threshold"]).threshold
    section = dataset_config(meta, job.config.get("data"))
    dataset = build_data(section, "val")
    chosen = choose_images(dataset, job.config.get("data") is not None, image_patterns(meta), **job.arguments["choose_images"])
    labeled = LabeledImages(build_data(section, "train"), dataset) if job.config["precision"] == "int8" else None
    metadata = {"checkpoint_sha256": meta["sha256"]} | {key: meta["config"][key] for key in ("model", "backbone", "data")}
    metadata["crop"] = training_crop(meta)
    metadata["scores"] = read_scores(Path(meta["path"]).parent)  # with their protocol
    options = job.arguments["create_output_dir"]
    with create_output_dir(
        "export", checkpoint_title(meta), job.recorded, checkpoint_sha256=meta["sha256"], **options
    ) as output_dir:
        result = export_model(
            model, info, metadata, chosen.images, output_dir.path, labeled, threshold, **job.arguments["export_model"]
        )
        result["images"] = chosen.title
        write_json(output_dir.path / "export.json", result)
    _print_summary(result)
    return result


def _print_summary(result: dict[str, Any]) -> None:
    parity = result["parity"]
    agreement = min(row["agreement"] for row in parity)
    one_class = max(row["classes"] for row in parity) == 1
    note = "; this means little, as the model predicts a single class everywhere" if one_class else ""
    print(
        f"{result['file']}: {result['bytes'] / 1e6:.1f} MB, labels of {len(parity)} images agree on at least {agreement:.3%} of the pixels{note}"
    )
    if accuracy := result.get("accuracy"):
        print(f"mIoU of {accuracy['images']} images: {accuracy['miou']:.2%} before, {accuracy['exported_miou']:.2%} in int8")
    if result["bundle"]:
        print(f"{result['bundle']}: unpack it anywhere and run python predict.py --selftest")


def main() -> None:
    """Entry point of the console script ``segzoo-export``."""
    run(export, "export")


if __name__ == "__main__":
    main()
