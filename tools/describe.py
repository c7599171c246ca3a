"""Print a model's layers: ``python tools/describe.py model=icnet hw=[1025,2049] classes=19``, or those of ``ckpt=runs/first``."""

from __future__ import annotations

from typing import Any

from segzoo.tools._entry import Job, run


def describe(job: Job) -> dict[str, Any]:
    """Prints the layer table, of a pruned network with the widths it had before; returns its sums."""
    from segzoo import config, zoo
    from segzoo.describe import describe as layers
    from segzoo.describe import sums, table

    model, whole = zoo.outlines(job.config, **config.words_for(zoo.outlines, job.config))
    words = config.words_for(layers, job.config)
    rows = layers(model, **words)
    print(table(rows, layers(whole, **words) if whole else None), end="")
    return sums(rows)


def main() -> None:
    """The console script ``segzoo-describe``."""
    run(describe, "describe")


if __name__ == "__main__":
    main()
