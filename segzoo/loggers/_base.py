"""The run that is logged, and the interface of loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from segzoo.types import PlainMapping

Status = Literal["finished", "failed", "killed"]


@dataclass(frozen=True)
class LoggedRun:
    """A run as loggers see it.

    Attributes:
        path: the run directory.
        config: its configuration, as written into checkpoints.
        step: optimizer steps already done.
        resumed: whether it continues the run in ``path``.
        id: what the logger calls the run that it continues; None begins a new one.
    """

    path: Path
    config: PlainMapping
    step: int = 0
    resumed: bool = False
    id: str | None = None

    @property
    def name(self) -> str:
        """The last two parts of the path, such as ``runs/first``."""
        return "/".join(self.path.absolute().parts[-2:])


class RunLogger:
    """Interface of a logger.

    Any method may raise, see ``LoggerGroup``.

    Attributes:
        id: what the logger calls the run; None if it needs no name to continue it.
        hint: how to look at the run, empty if nothing needs to be said.
    """

    id: str | None = None
    hint: str = ""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of a step, named like ``train/loss``."""
        raise NotImplementedError

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """Log an image (H, W, 3) uint8. By default, do nothing."""

    def results(self, scores: Mapping[str, float], files: Sequence[str]) -> None:
        """Log the results of a finished run. By default, do nothing.

        Args:
            scores: the numbers of ``result.json``.
            files: paths of files in the run directory, relative to it.
        """

    def close(self, status: Status) -> None:
        """Write what is pending, and how the run ended."""
        raise NotImplementedError
