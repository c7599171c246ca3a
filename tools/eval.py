"""Score a checkpoint: ``python tools/eval.py ckpt=runs/train/...``, on its own data or on ``data=...`` of the same classes."""

from __future__ import annotations

from typing import Any

from segzoo.cli.app import Job, run


def evaluate(job: Job) -> dict[str, Any]:
    """Scores one checkpoint on the validation split; returns the summary."""
    from segzoo.config.build import build_data, build_post
    from segzoo.config.commands import words_for
    from segzoo.config.from_checkpoint import data_section, load_with_config, loss_of, refuse_other_model, title
    from segzoo.evaluation.evaluator import evaluate as score
    from segzoo.evaluation.report import score_table, write_summary
    from segzoo.runs.open_run import open_result

    model, card, meta = load_with_config(ckpt=job.config["ckpt"])
    refuse_other_model(meta, job.config)
    dataset = build_data(data_section(meta, job.config.get("data")), "val")
    with open_result("eval", title(meta), job.config, **words_for(open_result, job.config)) as folder:
        result = score(
            model,
            dataset,
            card,
            loss_of(meta, model),
            post=build_post(job.config["post"]),
            **words_for(score, job.config),
        )
        print(score_table(result))
        return write_summary(folder, result, meta["sha256"])


def main() -> None:
    """The console script ``segzoo-eval``."""
    run(evaluate, "eval")


if __name__ == "__main__":
    main()
