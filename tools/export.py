"""Export a checkpoint to a file for other programs: ``python tools/export.py ckpt=runs/first format=onnx``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segzoo.cli.app import Job, run


def export(job: Job) -> dict[str, Any]:
    """Export one checkpoint and check it on images of its data; return what was written and how well it agrees."""
    from segzoo.checkpoints.serialization import read_scores
    from segzoo.config.build import build_data
    from segzoo.config.from_checkpoint import checkpoint_title, dataset_config, load_checkpoint
    from segzoo.export.exporter import export_model
    from segzoo.io import write_json
    from segzoo.runs.open_run import create_output_dir

    model, info, meta = load_checkpoint(**job.arguments["load_checkpoint"])
    dataset = build_data(dataset_config(meta, job.config.get("data")), "val")
    facts = {"checkpoint_sha256": meta["sha256"], "model": meta["config"]["model"], "backbone": meta["config"]["backbone"]}
    facts["scores"] = read_scores(Path(meta["path"]).parent)  # mIoU and the rest, with their protocol
    with create_output_dir("export", checkpoint_title(meta), job.config, **job.arguments["create_output_dir"]) as output_dir:
        result = export_model(model, info, facts, dataset, output_dir, **job.arguments["export_model"])
        write_json(output_dir / "export.json", result)
    _print_summary(result)
    return result


def _print_summary(result: dict[str, Any]) -> None:
    parity = result["parity"]
    agreement = min(row["agreement"] for row in parity)
    one_class = max(row["classes"] for row in parity) == 1
    note = "; the model predicts one class everywhere, so that says little" if one_class else ""
    print(
        f"{result['file']}: {result['bytes'] / 1e6:.1f} MB, {len(parity)} images agree on {agreement:.3%} of their pixels or more{note}"
    )
    if result["bundle"]:
        print(f"{result['bundle']}: unpack it anywhere and run python predict.py --selftest")


def main() -> None:
    """The console script ``segzoo-export``."""
    run(export, "export")


if __name__ == "__main__":
    main()
