"""Rank the runs of a folder: ``python tools/leaderboard.py runs``.

Writes one table for each protocol and data set, with the Pareto front of mIoU against the milliseconds per image that tools/bench.py has
measured. Filter the rows by ``where.model=icnet``, sort them by ``sort=ms``, and set ``budget_ms=30`` for the best model below 30 ms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segzoo.cli.app import Job, run
from segzoo.cli.positional import name_positional_words


def leaderboard(job: Job) -> dict[str, Any]:
    """Rank the runs, print the tables and write them.

    Returns:
        The contents of ``leaderboard.json``.
    """
    from segzoo.reporting.text_table import terminal_width
    from segzoo.runs.output_dir import create_output_dir
    from segzoo.workflows.leaderboard.page import write_leaderboard
    from segzoo.workflows.leaderboard.ranking import rank_runs
    from segzoo.workflows.leaderboard.tables import leaderboard_text

    result = rank_runs(**job.arguments["rank_runs"])
    title = Path(job.config["runs"][0]).resolve().name
    with create_output_dir("leaderboard", title, job.recorded, **job.arguments["create_output_dir"]) as output_dir:
        write_leaderboard(output_dir.path, result)
    print(leaderboard_text(result, terminal_width()))
    return result


def main() -> None:
    """Entry point of the console script ``segzoo-leaderboard``."""
    name_positional_words()
    run(leaderboard, "leaderboard")


if __name__ == "__main__":
    main()
