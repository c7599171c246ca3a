"""Score a checkpoint: ``python tools/eval.py ckpt=runs/train/...``, on its own data or on ``data=...`` of the same classes."""

from __future__ import annotations

from typing import Any

from segzoo.tools._entry import Job, run


def evaluate(job: Job) -> dict[str, Any]:
    """Scores one checkpoint on the validation split; returns the summary."""
    from segzoo import config, zoo
    from segzoo.engine.evaluate import evaluate as score
    from segzoo.engine.run import open_result
    from segzoo.engine.summary import score_table, write_summary

    model, card, meta = zoo.load_with_config(ckpt=job.config["ckpt"])
    zoo.refuse_other_model(meta, job.config)
    dataset = config.build_data(zoo.data_section(meta, job.config.get("data")), "val")
    with open_result("eval", zoo.title(meta), job.config, **config.words_for(open_result, job.config)) as folder:
        result = score(
            model,
            dataset,
            card,
            zoo.loss_of(meta, model),
            post=config.build_post(job.config["post"]),
            **config.words_for(score, job.config),
        )
        print(score_table(result))
        return write_summary(folder, result, meta["sha256"])


def main() -> None:
    """The console script ``segzoo-eval``."""
    run(evaluate, "eval")


if __name__ == "__main__":
    main()
