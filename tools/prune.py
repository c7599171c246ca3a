"""Remove channels from a trained network and train on: ``python tools/prune.py ckpt=runs/first pruner=l1 pruner.keep=0.5``."""

from __future__ import annotations

import json
from typing import Any

from segzoo.tools._entry import Job, run


def prune(job: Job) -> dict[str, Any]:
    """Prunes one checkpoint and fine-tunes it; returns what ``result.json`` holds, the report with it."""
    from segzoo import config, zoo
    from segzoo.aim import settle
    from segzoo.engine.device import reuse_memory
    from segzoo.engine.run import open_run
    from segzoo.engine.train import train as learn
    from segzoo.engine.world import ALONE
    from segzoo.pruned import stages, timed_rows, tuned_row, write_report
    from segzoo.rules import training_faults

    reuse_memory()
    model, card, meta = zoo.load_with_config(ckpt=job.config["ckpt"])
    zoo.refuse_other_model(meta, job.config)
    own = {name: meta["config"][name] for name in ("model", "backbone")}
    whole = job.config | own | {"data": zoo.data_section(meta, job.config.get("data"))}
    whole["backbone"] = {**own["backbone"], "weights": "none"}
    if whole["distill"]["name"] == "teacher" and whole["distill"]["ckpt"] is None:
        whole["distill"] = {**whole["distill"], "ckpt": job.config["ckpt"]}
    if faults := training_faults(whole):
        raise config.ConfigError(faults)
    recorded = job.recorded | own | {"data": job.recorded.get("data") or meta["config"]["data"]}
    place = open_run("prune", zoo.title(meta), whole, **_place(job, config.words_for(open_run, job.config)))
    if place.finished:
        return json.loads((place.folder / "result.json").read_text(encoding="utf-8"))
    try:
        parts = config.build_training(whole, recorded)
        parts.model, parts.widths = model, meta["widths"]
        settle(parts, place.folder, whole["device"], ALONE)
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


def _place(job: Job, words: dict[str, Any]) -> dict[str, Any]:
    """Where the run goes: in a sweep its job's folder, gone on with if the sweep is started again."""
    return words if job.folder is None else {"out": str(job.folder), "resume": "auto"}


def main() -> None:
    """The console script ``segzoo-prune``."""
    run(prune, "prune")


if __name__ == "__main__":
    main()
