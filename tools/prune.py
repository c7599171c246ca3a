"""Remove channels from a trained network and train on: ``python tools/prune.py ckpt=runs/first pruner=l1 pruner.keep=0.5``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segzoo.tools._entry import Job, run
from segzoo.tools._learn import needed, take_gpu

from segzoo.registry import ConfigError


def prune(job: Job) -> dict[str, Any]:
    """Prunes one checkpoint and fine-tunes it; returns what ``result.json`` holds, the report with it."""
    from segzoo import config, zoo
    from segzoo.aim import settle
    from segzoo.engine.device import reuse_memory
    from segzoo.engine.run import Run, open_run
    from segzoo.engine.train import train as learn
    from segzoo.engine.world import ALONE
    from segzoo.pruned import stages, timed_rows, tuned_row, write_report

    reuse_memory()
    _refuse(job)
    if job.folder is not None:
        take_gpu(job.config)
    model, _, meta = zoo.load_with_config(ckpt=job.config["ckpt"])
    whole, recorded = _whole(job, meta)
    if job.config["dry"]:
        needs = learn(_parts(whole, recorded, model, meta), Run(Path()), **config.words_for(learn, job.config))
        print(needed(needs, job.config["batch_size"]))
        return needs
    place = open_run("prune", zoo.title(meta), whole, **_place(job, config.words_for(open_run, job.config)))
    if place.finished:
        return json.loads((place.folder / "result.json").read_text(encoding="utf-8"))
    try:
        parts = _parts(whole, recorded, model, meta)
        settle(parts, place.folder, ALONE, **config.words_for(settle, job.config))
        rows, curves = stages(parts, place.folder, **config.words_for(stages, whole))
        result = learn(parts, place, **config.words_for(learn, job.config)) | {"checkpoint_sha256": meta["sha256"]}
        rows.append(tuned_row(place.folder, **config.words_for(tuned_row, whole)))
        times = timed_rows({"before": job.config["ckpt"], "after": str(place.folder)}, **config.words_for(timed_rows, job.config))
    except BaseException as error:
        place.fail(error)
        raise
    result |= {"report": rows, "times": times}
    print(write_report(place.folder, rows, times, curves))
    place.finish(result)
    return result


def _refuse(job: Job) -> None:
    """Raises ConfigError for what a training knows and this tool does not."""
    ckpt = job.config["ckpt"]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"tools/prune.py is one process. Under torchrun say tools/train.py init.ckpt={ckpt} pruner={job.config['pruner']['name']} "
            "pruner.start=0"
        )
    if job.config["init"]["ckpt"] is not None:
        raise ConfigError(f"init.ckpt={job.config['init']['ckpt']}: what is pruned is ckpt={ckpt}. Leave init.ckpt away.")


def _whole(job: Job, meta: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration with what comes from the checkpoint, and the same as it is recorded."""
    from segzoo import zoo
    from segzoo.rules import pruning_doubts, training_faults

    zoo.refuse_other_model(meta, job.config)
    own = {name: meta["config"][name] for name in ("model", "backbone")}
    whole = job.config | own | {"data": zoo.data_section(meta, job.config.get("data"))}
    whole["backbone"] = {**own["backbone"], "weights": "none"}
    if whole["distill"]["name"] == "teacher" and whole["distill"]["ckpt"] is None:
        whole["distill"] = {**whole["distill"], "ckpt": job.config["ckpt"]}
    if faults := training_faults(whole):
        raise ConfigError(faults)
    for line in pruning_doubts(whole["pruner"]):
        print(f"note: {line}", flush=True)
    return whole, job.recorded | own | {"data": job.recorded.get("data") or meta["config"]["data"]}


def _parts(whole: dict[str, Any], recorded: dict[str, Any], model: Any, meta: Mapping[str, Any]) -> Any:
    """Everything the training needs, around the loaded network."""
    from segzoo import config

    parts = config.build_training(whole, recorded)
    parts.model, parts.widths = model, meta["widths"]
    if whole["init"]["freeze"]:
        model.backbone.freeze_(tuple(whole["init"]["freeze"]))
    return parts


def _place(job: Job, words: dict[str, Any]) -> dict[str, Any]:
    """Where the run goes: in a sweep its job's folder, gone on with if the sweep is started again."""
    return words if job.folder is None else {"out": str(job.folder), "resume": "auto"}


def main() -> None:
    """The console script ``segzoo-prune``."""
    run(prune, "prune")


if __name__ == "__main__":
    main()
