"""Print a model's layers: ``python tools/describe.py model=icnet hw=[1025,2049] classes=19``."""

from __future__ import annotations

from typing import Any

from segzoo.tools._entry import Job, run


def describe(job: Job) -> dict[str, Any]:
    """Prints the layer table; returns its sums."""
    from segzoo import config, zoo
    from segzoo.describe import describe as layers
    from segzoo.describe import sums, table

    rows = layers(
        zoo.blank_model(job.config, **config.words_for(zoo.blank_model, job.config)), **config.words_for(layers, job.config)
    )
    print(table(rows), end="")
    return sums(rows)


def main() -> None:
    """The console script ``segzoo-describe``."""
    run(describe, "describe")


if __name__ == "__main__":
    main()
