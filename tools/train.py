"""Train a model: ``python tools/train.py model=icnet data=cityscapes``.

``-m model=fcn,pspnet`` trains several models in a sweep. ``torchrun`` trains on several GPUs.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from segzoo.cli.app import Job, run
from segzoo.cli.training import assign_gpu, check_data, run_dry, run_location

if TYPE_CHECKING:
    from segzoo.training.components import TrainingComponents


def train(job: Job) -> dict[str, Any]:
    """Train one model on all ranks and return the contents of ``result.json``."""
    from segzoo.cli.compose import default_config
    from segzoo.config.build_training import build_training, open_loggers
    from segzoo.device import configure_allocator
    from segzoo.distributed import init_distributed
    from segzoo.evaluation.score_table import read_score_table
    from segzoo.reporting.text_table import terminal_width
    from segzoo.runs.open_run import open_run_distributed
    from segzoo.training import loop
    from segzoo.training.components import TrainingSettings
    from segzoo.workflows.benchmark.model_summary import model_complexity
    from segzoo.workflows.prune.target_search import resolve_keep_ratio
    from segzoo.workflows.report.run_page import report_training

    configure_allocator(**job.arguments["configure_allocator"])
    assign_gpu(job)
    with init_distributed(job.config["device"]) as dist:
        if job.config["dry_run"]:
            return run_dry(job, build_training(job.config, job.recorded), dist)
        with open_run_distributed(dist, "train", job.title, job.recorded, **run_location(job)) as run_dir:
            if run_dir.finished:
                return run_dir.result
            components = build_training(job.config, job.recorded, dist=dist)
            resolve_keep_ratio(components, run_dir.path, dist, **job.arguments["resolve_keep_ratio"])
            if dist.is_main:
                _print_overview(job, components)
            with open_loggers(job.config["logger"], run_dir, components.config, dist) as loggers:
                settings = TrainingSettings(**job.arguments["TrainingSettings"])
                result = loop.train(components, run_dir, settings, dist, loggers)
                if dist.is_main:
                    result["receptive_field"] = model_complexity(components.model, (512, 1024))["receptive_field"]
                    options = job.arguments["report_training"]
                    report_training(run_dir.path, components, result, partial(default_config, "train"), **options)
                    run_dir.finish(result)
                    print(f"scores of the best checkpoint, step {result['best_step']}:")
                    print(read_score_table(run_dir.path / "eval", terminal_width()), flush=True)
                    loggers.results(result)
            return result


def _print_overview(job: Job, components: TrainingComponents) -> None:
    """Print the number of parameters, and warnings about settings and data."""
    from segzoo.config.cross_checks import training_warnings
    from segzoo.layers.parameters import count_parameters
    from segzoo.models._base import SegModel

    assert isinstance(components.model, SegModel)
    print(f"{count_parameters(components.model):,} parameters", flush=True)
    for line in training_warnings(job.config, components.model) + check_data(job, components):
        print(f"note: {line}", flush=True)


def main() -> None:
    """Entry point of the console script ``segzoo-train``."""
    run(train, "train")


if __name__ == "__main__":
    main()
