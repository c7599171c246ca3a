"""Print a model's layers: ``python tools/describe.py model=icnet hw=[1025,2049] classes=19``, or those of ``ckpt=runs/first``."""

from __future__ import annotations

from typing import Any

from segzoo.cli.app import Job, run


def describe(job: Job) -> dict[str, Any]:
    """Prints the layer table, of a pruned network with the widths it had before; returns its sums."""
    from segzoo.config.commands import arguments_for
    from segzoo.config.from_checkpoint import meta_models
    from segzoo.workflows.benchmark.model_summary import describe as layers
    from segzoo.workflows.benchmark.model_summary import summary_table, totals

    model, whole = meta_models(job.config, **arguments_for(meta_models, job.config))
    words = arguments_for(layers, job.config)
    rows = layers(model, **words)
    print(summary_table(rows, layers(whole, **words) if whole else None), end="")
    return totals(rows)


def main() -> None:
    """The console script ``segzoo-describe``."""
    run(describe, "describe")


if __name__ == "__main__":
    main()
