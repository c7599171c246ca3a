"""Evaluate a checkpoint or an exported file: ``python tools/eval.py ckpt=runs/first``.

It is evaluated on its own data, or on ``data=...`` with the same classes. Weights of other libraries are evaluated with ``model=... data=...
init.ckpt=...`` instead.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from segzoo.cli.app import Job, run

if TYPE_CHECKING:
    from torch import nn


def evaluate(job: Job) -> dict[str, Any]:
    """Evaluate a checkpoint on a split of its data.

    Returns:
        The summary, with the name and size of the model.
    """
    from segzoo.cli.compose import default_config
    from segzoo.config.build import build_split
    from segzoo.config.from_checkpoint import checkpoint_loss, checkpoint_title, dataset_config
    from segzoo.config.from_export import network_protocol
    from segzoo.config.from_weights import load_trained
    from segzoo.data.checks.check import check_splits
    from segzoo.distributed import SHARDED_TIMEOUT, init_distributed
    from segzoo.evaluation import evaluator
    from segzoo.evaluation.report import score_line, write_summary
    from segzoo.evaluation.score_table import score_table
    from segzoo.evaluation.scores.build import build_scores
    from segzoo.models._base import SegModel
    from segzoo.reporting.text_table import terminal_width
    from segzoo.runs.output_dir import create_output_dir, on_all_ranks
    from segzoo.workflows.report.run_page import report_evaluation

    with init_distributed(job.config["device"], SHARDED_TIMEOUT) as dist:
        model, info, meta = load_trained(job.config, **job.arguments["load_trained"])
        protocol, notes = network_protocol(job.config, model, info, meta, **job.arguments["with_threshold"])
        dataset = build_split(dataset_config(meta, job.config.get("data"), job.config["split"]), **job.arguments["build_split"])
        loss = checkpoint_loss(meta, model) if isinstance(model, SegModel) else None  # an exported file has no loss
        scores = build_scores(info, **job.arguments["build_scores"])
        title, location = f"{job.config['split']} (to be scored)", job.arguments["create_output_dir"]
        reports = dist.run_on_rank0(lambda: check_splits({title: dataset}))
        for note in [*notes, *(line for report in reports.values() for line in report.notes)] if dist.is_main else ():
            print(f"note: {note}", flush=True)
        directory = create_output_dir("eval", checkpoint_title(meta), job.recorded, checkpoint_sha256=meta["sha256"], **location)
        with on_all_ranks(dist, directory, job.recorded) as output_dir:
            result = evaluator.evaluate(
                model, dataset, info, loss, protocol=protocol, distributed=dist, extra=scores, **job.arguments["evaluate"]
            )
            if not dist.is_main:
                return {}
            try:
                summary = write_summary(output_dir.path, result, meta["sha256"], job.config["split"])
            except OSError:
                print(score_line(result.scores), flush=True)  # the evaluation may have taken hours
                raise
            options, defaults = job.arguments["report_evaluation"], partial(default_config, "train")
            report_evaluation(output_dir.path, model, dataset, meta, protocol, defaults, **options)
    print(score_table(summary, result.per_image_counts, terminal_width(), result.drawn_counts))
    for line in [line for score in result.extra.values() for line in score.lines]:
        print(line)
    return summary | _table_columns(model, dataset.info.name, meta)


def _table_columns(model: nn.Module, data: str, meta: dict[str, Any]) -> dict[str, Any]:
    """Describe the evaluated model for the table of a sweep."""
    from segzoo.models._base import SegModel
    from segzoo.workflows.benchmark.model_summary import model_complexity

    size = model_complexity(model, (512, 1024)) if isinstance(model, SegModel) else {}  # nothing is known of an exported file
    names = {section: meta["config"][section]["name"] for section in ("model", "backbone")}
    return names | {"data": data, "params": size.get("params"), "receptive_field": size.get("receptive_field")}


def main() -> None:
    """Entry point of the console script ``segzoo-eval``."""
    run(evaluate, "eval")


if __name__ == "__main__":
    main()
