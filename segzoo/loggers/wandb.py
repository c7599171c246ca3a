"""Weights & Biases, by default offline."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import numpy as np

from segzoo.loggers._base import LoggedRun, RunLogger, Status
from segzoo.registry import LOGGERS

LOGIN_TIMEOUT = 30  # seconds to type an API key, after which the logger fails


@LOGGERS.register
def wandb(
    run: LoggedRun,
    *,
    project: str = "segzoo",
    entity: str | None = None,
    run_name: str | None = None,
    mode: Literal["offline", "online"] = "offline",
) -> RunLogger:
    """Log numbers, images, the configuration and result files.

    Offline runs lie in ``<run directory>/wandb`` and are uploaded by ``wandb sync``. A resumed run continues the same W&B run, with a
    further directory if it is offline.

    Args:
        run: the run to log.
        project: name of the project.
        entity: user or team; None takes the default of the account.
        run_name: shown name; None takes that of the run directory.
        mode: write files only, or upload while training.
    """
    return WandbLogger(run, project=project, entity=entity, name=run_name or run.name, mode=mode)


class WandbLogger(RunLogger):
    """Open run of Weights & Biases."""

    id: str

    def __init__(self, run: LoggedRun, **options: Any):
        offline = options["mode"] == "offline"
        if offline:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no connections
        self.path = run.path
        self.library = importlib.import_module("wandb")  # the package, which type checkers confuse with this module
        settings = self.library.Settings(silent=True, console="off", disable_git=True, save_code=False, login_timeout=LOGIN_TIMEOUT)
        self.run = self.library.init(
            **options,
            id=run.id,
            resume="allow" if run.id else None,
            dir=str(run.path),
            config=json.loads(json.dumps(run.config)),  # keys become text
            settings=settings,
        )
        self.id, self.folder = self.run.id, Path(self.run.dir)
        shown = f"upload it with: wandb sync {quote(str(self.folder.parent))}" if offline else self.run.url
        self.hint = f"run {options['name']} of project {options['project']}, {shown}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        self.run.log({tag: self.library.Image(image)}, step=step)

    def results(self, scores: Mapping[str, float], files: Sequence[str]) -> None:
        self.run.summary.update({f"result/{key}": value for key, value in scores.items()})
        for file in files:
            copy = self.folder / "results" / file  # apart from files of wandb, which has a config.yaml too
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path / file, copy)  # the run directory may be moved before it is uploaded
            self.run.save(str(copy), base_path=str(self.folder), policy="end")

    def close(self, status: Status) -> None:
        self.run.finish(exit_code=0 if status == "finished" else 1)
