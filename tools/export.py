"""Turn a checkpoint into one file for other programs: ``python tools/export.py ckpt=runs/first format=onnx``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segzoo.cli.app import Job, run


def export(job: Job) -> dict[str, Any]:
    """Exports one checkpoint and checks it on images of its data; returns what was written and how well it agrees."""
    from segzoo.checkpoints import serialization as checkpoint
    from segzoo.config.build import build_data
    from segzoo.config.commands import arguments_for
    from segzoo.config.from_checkpoint import checkpoint_title, dataset_config, load_checkpoint
    from segzoo.export.exporter import export_model
    from segzoo.io import write_json
    from segzoo.runs.open_run import create_output_dir

    model, info, meta = load_checkpoint(ckpt=job.config["ckpt"])
    dataset = build_data(dataset_config(meta, job.config.get("data")), "val")
    facts = {"checkpoint_sha256": meta["sha256"], "model": meta["config"]["model"], "backbone": meta["config"]["backbone"]}
    facts["scores"] = checkpoint.read_scores(Path(meta["path"]).parent)  # mIoU and the rest, with the protocol they hold under
    with create_output_dir("export", checkpoint_title(meta), job.config, **arguments_for(create_output_dir, job.config)) as folder:
        done = export_model(model, info, facts, dataset, folder, **arguments_for(export_model, job.config))
        write_json(folder / "export.json", done)
    least = min(row["agreement"] for row in done["parity"])
    seen = max(row["classes"] for row in done["parity"])
    told = "" if seen > 1 else "; the network gives every pixel one class, so that says little"
    print(
        f"{done['file']}: {done['bytes'] / 1e6:.1f} MB, {len(done['gate'])} images agree on {least:.3%} of their pixels or more{told}"
    )
    if done["bundle"]:
        print(f"{done['bundle']}: unpack it anywhere and run python predict.py --selftest")
    return done


def main() -> None:
    """The console script ``segzoo-export``."""
    run(export, "export")


if __name__ == "__main__":
    main()
