"""Choice of where a prediction runs."""

from __future__ import annotations

from typing import Literal


def runs_on_ray(*, engine: Literal["local", "ray"] = "local") -> bool:
    """True if a prediction runs on a Ray cluster.

    Args:
        engine: ``local`` is this process, or the ranks of torchrun.
    """
    return engine == "ray"
