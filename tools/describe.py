"""Print the layers of a model: ``python tools/describe.py model=icnet hw=[1025,2049] num_classes=19``, or of ``ckpt=runs/first``."""

from __future__ import annotations

from typing import Any

from segzoo.cli.app import Job, run


def describe(job: Job) -> dict[str, Any]:
    """Print the layer table, for a pruned model next to its original widths; return the totals."""
    from segzoo.config.from_checkpoint import meta_models
    from segzoo.workflows.benchmark import model_summary

    model, unpruned = meta_models(job.config, **job.arguments["meta_models"])
    options = job.arguments["describe"]
    rows = model_summary.describe(model, **options)
    print(model_summary.summary_table(rows, model_summary.describe(unpruned, **options) if unpruned else None), end="")
    return model_summary.totals(rows)


def main() -> None:
    """The console script ``segzoo-describe``."""
    run(describe, "describe")


if __name__ == "__main__":
    main()
