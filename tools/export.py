"""Turn a checkpoint into one file for other programs: ``python tools/export.py ckpt=runs/first format=onnx``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segzoo.tools._entry import Job, run


def export(job: Job) -> dict[str, Any]:
    """Exports one checkpoint and checks it on pictures of its data; returns what was written and how well it agrees."""
    from segzoo import config, zoo
    from segzoo.checkpoints import serialization as checkpoint
    from segzoo.engine.deliver import deliver
    from segzoo.engine.run import open_result
    from segzoo.report import write_json

    model, card, meta = zoo.load_with_config(ckpt=job.config["ckpt"])
    dataset = config.build_data(zoo.data_section(meta, job.config.get("data")), "val")
    facts = {"checkpoint_sha256": meta["sha256"], "model": meta["config"]["model"], "backbone": meta["config"]["backbone"]}
    facts["scores"] = checkpoint.scores_of(Path(meta["path"]).parent)  # mIoU and the rest, with the protocol they hold under
    with open_result("export", zoo.title(meta), job.config, **config.words_for(open_result, job.config)) as folder:
        done = deliver(model, card, facts, dataset, folder, **config.words_for(deliver, job.config))
        write_json(folder / "export.json", done)
    least = min(row["agreement"] for row in done["gate"])
    seen = max(row["classes"] for row in done["gate"])
    told = "" if seen > 1 else "; the network gives every pixel one class, so that says little"
    print(
        f"{done['file']}: {done['bytes'] / 1e6:.1f} MB, {len(done['gate'])} pictures agree on {least:.3%} of their pixels or more{told}"
    )
    if done["bundle"]:
        print(f"{done['bundle']}: unpack it anywhere and run python predict.py --selftest")
    return done


def main() -> None:
    """The console script ``segzoo-export``."""
    run(export, "export")


if __name__ == "__main__":
    main()
