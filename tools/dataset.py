"""Check, measure, convert, split and view data sets: ``python tools/dataset.py action=verify data=folder data.root=my``.

The result is printed as a table and written as JSON.
"""

from __future__ import annotations

from typing import Any

from segzoo.cli.app import Job, run


def dataset(job: Job) -> dict[str, Any]:
    """Run one action on a data set.

    Returns:
        The contents of ``dataset.json``.
    """
    from segzoo.config.sections import section_settings
    from segzoo.io import write_json
    from segzoo.registry import ACTIONS
    from segzoo.runs.output_dir import create_output_dir
    from segzoo.types import InvalidDataset

    action, data = job.config["action"], job.config.get("data") or {}
    title = "-".join([action["name"], *([data["name"]] if "name" in data else [])])
    with create_output_dir("dataset", title, job.recorded, **job.arguments["create_output_dir"]) as output_dir:
        report = ACTIONS.build(action["name"], data, output_dir.path, **section_settings(action))
        result = {"action": action["name"], **report.result, "errors": report.errors}
        write_json(output_dir.path / "dataset.json", result)
    print(report.text)
    if report.errors:
        raise InvalidDataset("\n".join(report.errors))
    return result


def main() -> None:
    """Entry point of the console script ``segzoo-dataset``."""
    run(dataset, "dataset")


if __name__ == "__main__":
    main()
