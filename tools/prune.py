"""Remove channels from a network and train on: ``python tools/prune.py ckpt=runs/first pruner=l1 pruner.keep_ratio=0.5``.

With ``model=pspnet data=camvid`` in place of ``ckpt`` it begins with the network that ``tools/train.py`` would begin with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from segzoo.cli.app import Job, run
from segzoo.cli.training import assign_gpu, run_dry
from segzoo.registry import ConfigError


def prune(job: Job) -> dict[str, Any]:
    """Prunes one network and fine-tunes it; returns what ``result.json`` holds, the report with it."""
    from segzoo.config.commands import arguments_for
    from segzoo.config.from_checkpoint import checkpoint_title, initial_model
    from segzoo.device import enable_memory_reuse
    from segzoo.distributed import SINGLE_PROCESS
    from segzoo.runs.open_run import open_run
    from segzoo.training.loop import train as learn
    from segzoo.workflows.prune.report import write_report
    from segzoo.workflows.prune.stages import benchmark_before_after, evaluate_stages, finetuned_result
    from segzoo.workflows.prune.target_search import resolve_keep_ratio

    enable_memory_reuse()
    _refuse(job)
    if job.output_dir is not None:
        assign_gpu(job.config)
    model, meta = initial_model(job.config, **arguments_for(initial_model, job.config))
    whole, recorded = _whole(job, meta)
    if job.config["dry_run"]:
        return run_dry(_parts(whole, recorded, model, meta), whole)
    place = open_run("prune", checkpoint_title(meta), whole, **_place(job, arguments_for(open_run, job.config)))
    if place.finished:
        return json.loads((place.path / "result.json").read_text(encoding="utf-8"))
    try:
        parts = _parts(whole, recorded, model, meta)
        resolve_keep_ratio(parts, place.path, SINGLE_PROCESS, **arguments_for(resolve_keep_ratio, job.config))
        rows, curves = evaluate_stages(parts, place.path, **arguments_for(evaluate_stages, whole))
        result = learn(parts, place, **arguments_for(learn, job.config)) | {"checkpoint_sha256": meta["sha256"]}
        rows.append(finetuned_result(place.path, **arguments_for(finetuned_result, whole)))
        sides = {"before": _before(whole, meta), "after": str(place.path)}
        times = benchmark_before_after(sides, **arguments_for(benchmark_before_after, job.config))
    except BaseException as error:
        place.fail(error)
        raise
    result |= {"report": rows, "times": times}
    print(write_report(place.path, rows, times, curves))
    place.finish(result)
    return result


def _refuse(job: Job) -> None:
    """Raises ConfigError for what a training knows and this tool does not."""
    ckpt, init = job.config["ckpt"], job.config["init"]["ckpt"]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        begin = f"init.ckpt={ckpt} and the model=, backbone= and data= words it was trained with," if ckpt else "the same words,"
        raise ConfigError(
            f"tools/prune.py is one process. Under torchrun say tools/train.py with {begin} pruner={job.config['pruner']['name']} "
            "pruner.start=0"
        )
    if init is not None and ckpt is None:
        raise ConfigError(f"init.ckpt={init}: a trained network that is to be pruned is named by ckpt=. Say ckpt={init}.")
    if init is not None:
        raise ConfigError(f"init.ckpt={init}: what is pruned is ckpt={ckpt}. Leave init.ckpt away.")


def _whole(job: Job, meta: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration with what comes from the checkpoint, if there is one, and the same as it is recorded."""
    from segzoo.config.cross_checks import pruning_warnings, training_errors
    from segzoo.config.from_checkpoint import check_same_normalization, dataset_config

    whole, recorded = dict(job.config), dict(job.recorded)
    if job.config["ckpt"] is not None:
        own = {name: meta["config"][name] for name in ("model", "backbone")}
        whole |= own | {"data": dataset_config(meta, job.config.get("data"))}
        recorded |= own | {"data": job.recorded.get("data") or meta["config"]["data"]}
        whole["backbone"] = {**own["backbone"], "weights": "none"}
        check_same_normalization(meta, whole["data"])
        if whole["distill"]["name"] == "teacher" and whole["distill"]["ckpt"] is None:
            whole["distill"] = {**whole["distill"], "ckpt": job.config["ckpt"]}
    if faults := training_errors(whole):
        raise ConfigError(faults)
    for line in pruning_warnings(whole["pruner"]):
        print(f"note: {line}", flush=True)
    return whole, recorded


def _parts(whole: dict[str, Any], recorded: dict[str, Any], model: Any, meta: Mapping[str, Any]) -> Any:
    """Everything the training needs, around the loaded network; around a fresh one where none was loaded."""
    from segzoo.config.build_training import build_training

    parts = build_training(whole, recorded)
    if model is None:
        return parts
    parts.model, parts.widths = model, meta["widths"]
    if whole["init"]["freeze"]:
        model.backbone.freeze_(tuple(whole["init"]["freeze"]))
    return parts


def _before(whole: dict[str, Any], meta: Mapping[str, Any]) -> str | dict[str, Any]:
    """What is timed as the network before it was pruned: the checkpoint, or a network of the same layers."""
    if whole["ckpt"] is not None:
        return whole["ckpt"]
    bare = {**whole["backbone"], "weights": "none"}  # the time does not depend on them
    return {"model": whole["model"], "backbone": bare, "data": whole["data"], "classes": len(meta["dataset"]["classes"])}


def _place(job: Job, words: dict[str, Any]) -> dict[str, Any]:
    """Where the run goes: in a sweep its job's folder, gone on with if the sweep is started again."""
    return words if job.output_dir is None else {"out": str(job.output_dir), "resume": "auto"}


def main() -> None:
    """The console script ``segzoo-prune``."""
    run(prune, "prune")


if __name__ == "__main__":
    main()
