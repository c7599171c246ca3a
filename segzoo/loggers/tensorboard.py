"""TensorBoard events in the run directory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from segzoo.loggers._base import LoggedRun, RunLogger, Status
from segzoo.registry import LOGGERS


@LOGGERS.register
def tensorboard(run: LoggedRun) -> RunLogger:
    """Write events for ``tensorboard --logdir``.

    Steps that an interrupted process logged after its checkpoint are purged.
    """
    return TensorBoardLogger(run)


class TensorBoardLogger(RunLogger):
    """Writer of TensorBoard events."""

    def __init__(self, run: LoggedRun):
        import yaml
        from torch.utils.tensorboard import SummaryWriter

        self.events = SummaryWriter(str(run.path), purge_step=run.step + 1 if run.resumed else None)
        text = yaml.safe_dump(dict(run.config), sort_keys=False)
        self.events.add_text("config", "    " + text.replace("\n", "\n    "), run.step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.events.add_scalar(name, value, step)

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        self.events.add_image(tag, image, step, dataformats="HWC")

    def close(self, status: Status) -> None:
        self.events.close()
