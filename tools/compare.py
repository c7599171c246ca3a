"""Compare models on the same images: ``python tools/compare.py runs/a runs/b``.

A path is a run, an output directory of ``tools/eval.py``, a folder of these, or an ONNX file. Words such as ``mypackage.models:build`` name
a function that returns a network. Verdicts come from a bootstrap over images.
"""

from __future__ import annotations

from typing import Any

from segzoo.cli.app import Job, run
from segzoo.cli.positional import name_positional_words


def compare(job: Job) -> dict[str, Any]:
    """Score what has no scores yet, and compare all models.

    Returns:
        The contents of ``compare.json``.
    """
    from functools import partial

    from segzoo.config.build import build_protocol
    from segzoo.evaluation import evaluator
    from segzoo.inference.threshold import with_threshold
    from segzoo.reporting.text_table import terminal_width
    from segzoo.runs.output_dir import create_output_dir
    from segzoo.workflows.compare.comparison import compare_evaluations
    from segzoo.workflows.compare.evaluations import find_evaluations
    from segzoo.workflows.compare.outside import score_outside
    from segzoo.workflows.compare.report import comparison_text, write_comparison
    from segzoo.workflows.report.comparison_page import report_comparison

    networks: list[Any] = []

    def evaluate(network: Any, dataset: Any) -> evaluator.Evaluation:
        networks.append(network)
        own = with_threshold(protocol, dataset.info, getattr(network, "threshold", None))
        return evaluator.evaluate(network, dataset, dataset.info, protocol=own, **job.arguments["evaluate"])

    protocol = build_protocol(job.config)
    evaluations = find_evaluations(job.config["runs"])
    reference = next(iter(evaluations), None)
    score = partial(score_outside, evaluations, job.config.get("data"), evaluate=evaluate, **job.arguments["score_outside"])
    title = reference.protocol["data"] if reference else job.config["data"]["name"]
    with create_output_dir("compare", title, job.recorded, **job.arguments["create_output_dir"]) as output_dir:
        evaluations += score(output_dir.path)
        result = compare_evaluations(evaluations, **job.arguments["compare_evaluations"])
        names = [
            evaluation.name for evaluation in evaluations[len(evaluations) - len(networks) :]
        ]  # label maps come before networks
        named, options = dict(zip(names, networks, strict=True)), job.arguments["report_comparison"]
        report_comparison(output_dir.path, result, evaluations, named, protocol, job.config.get("data"), **options)
        write_comparison(output_dir.path, result)
    print(comparison_text(result, terminal_width()))
    return result


def main() -> None:
    """Entry point of the console script ``segzoo-compare``."""
    name_positional_words()
    run(compare, "compare")


if __name__ == "__main__":
    main()
