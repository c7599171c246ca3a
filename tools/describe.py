"""Print the layers of a model: ``python tools/describe.py model=icnet 'hw=[1025,2049]' num_classes=19``.

``ckpt=runs/first`` describes the model of a checkpoint.
"""

from __future__ import annotations

from typing import Any

from segzoo.cli.app import Job, run


def describe(job: Job) -> dict[str, Any]:
    """Print the table of layers.

    For a pruned model it includes the original widths.

    Returns:
        The totals of the table.
    """
    from segzoo.config.from_checkpoint import meta_models
    from segzoo.workflows.benchmark import model_summary

    model, unpruned = meta_models(job.config, **job.arguments["meta_models"])
    options = job.arguments["describe"]
    rows = model_summary.describe(model, **options)
    print(model_summary.summary_table(rows, model_summary.describe(unpruned, **options) if unpruned else None), end="")
    return model_summary.totals(rows)


def main() -> None:
    """Entry point of the console script ``segzoo-describe``."""
    run(describe, "describe")


if __name__ == "__main__":
    main()
