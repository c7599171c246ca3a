"""Score a checkpoint: ``python tools/eval.py ckpt=runs/train/...``, on its own data or on ``data=...`` of the same classes."""

from __future__ import annotations

from typing import Any

from segzoo.cli.app import Job, run


def evaluate(job: Job) -> dict[str, Any]:
    """Scores one checkpoint on the validation split; returns the summary."""
    from segzoo.config.build import build_data, build_post
    from segzoo.config.commands import arguments_for
    from segzoo.config.from_checkpoint import check_same_model, checkpoint_loss, checkpoint_title, dataset_config, load_checkpoint
    from segzoo.evaluation.evaluator import evaluate as score
    from segzoo.evaluation.report import score_table, write_summary
    from segzoo.runs.open_run import create_output_dir

    model, info, meta = load_checkpoint(ckpt=job.config["ckpt"])
    check_same_model(meta, job.config)
    dataset = build_data(dataset_config(meta, job.config.get("data")), "val")
    with create_output_dir("eval", checkpoint_title(meta), job.config, **arguments_for(create_output_dir, job.config)) as folder:
        result = score(
            model,
            dataset,
            info,
            checkpoint_loss(meta, model),
            post=build_post(job.config["post"]),
            **arguments_for(score, job.config),
        )
        print(score_table(result))
        return write_summary(folder, result, meta["sha256"])


def main() -> None:
    """The console script ``segzoo-eval``."""
    run(evaluate, "eval")


if __name__ == "__main__":
    main()
