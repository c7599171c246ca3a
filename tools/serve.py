"""Segment images over HTTP, with a page: ``python tools/serve.py ckpt=runs/first``.

The page corrects labels and saves them as LabelMe files. After SIGTERM or Ctrl-C, requests in progress are answered before the service ends.
"""

from __future__ import annotations

from typing import Any

from segzoo.cli.app import Job, run


def serve(job: Job) -> dict[str, Any]:
    """Load the models and answer requests until a signal.

    Returns:
        The number of images that were labeled.
    """
    from segzoo.config.checks.serving import TOKEN, read_token
    from segzoo.workflows.serve.address import bind, is_loopback
    from segzoo.workflows.serve.models import load_models
    from segzoo.workflows.serve.server import answer_requests
    from segzoo.workflows.serve.service import Limits, Service

    token = read_token(**job.arguments["read_token"])
    listener = bind(**job.arguments["bind"])
    service = Service(load_models(job.config, **job.arguments["load_models"]), Limits(**job.arguments["Limits"]))
    for model in service.models.values():
        print(f"{model.name}: {model.title}, {model.info.num_classes} classes")
    if token is None and not is_loopback(listener):
        print(f"note: anyone who reaches this machine can use the service. Set a token in the environment variable {TOKEN}.")
    answer_requests(service, listener, token)
    images = sum(service.metrics.images.values.values())
    print(f"{images} images labeled")
    return {"images": images}


def main() -> None:
    """Entry point of the console script ``segzoo-serve``."""
    run(serve, "serve")


if __name__ == "__main__":
    main()
