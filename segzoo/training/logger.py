"""Logs of a run.

A run writes TensorBoard events and ``metrics.jsonl``, and shows a progress bar or plain lines.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segzoo.checkpoints.serialization import read_scores
from segzoo.checkpoints.store import step_dir
from segzoo.distributed import Distributed
from segzoo.io import write_text
from segzoo.runs.run_dir import RunDir
from segzoo.types import PlainMapping

INFO_INTERVAL = 15.0  # seconds between progress lines without a terminal


class AverageMeters:
    """Running means of named numbers.

    Their state is saved in checkpoints, so a resumed run logs the same rows.
    """

    def __init__(self, state: Mapping[str, list[float]] | None = None):
        self.sums = {name: list(pair) for name, pair in (state or {}).items()}  # name -> [sum, count]

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            pair = self.sums.setdefault(name, [0.0, 0])
            pair[0] += value
            pair[1] += 1

    def pop(self) -> dict[str, float]:
        """Return the means since the last call and reset."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means

    def state(self) -> dict[str, list[float]]:
        return {name: list(pair) for name, pair in self.sums.items()}


class MetricLogger:
    """Open logs of a run, for use in a ``with`` block.

    Args:
        path: the run directory.
        step: optimizer steps already done. Rows that an interrupted process logged after them are removed.
        evaluated: whether the evaluation of that step is complete. Otherwise its row is removed, too.
        total_steps: length of the run.
        config: written to TensorBoard as text.
    """

    def __init__(self, path: Path, step: int, evaluated: bool, total_steps: int, config: PlainMapping):
        import yaml
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        self.step, self.total_steps = step, total_steps
        self.started, self.last_line, self.first_step = time.perf_counter(), -math.inf, step
        _remove_rows_after(path / "metrics.jsonl", step, evaluated)
        self.rows = open(path / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        self.events = SummaryWriter(str(path), purge_step=step + 1 if step else None)
        self.events.add_text("config", "    " + yaml.safe_dump(dict(config), sort_keys=False).replace("\n", "\n    "), step)
        self.bar = tqdm(total=total_steps, initial=step, unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None

    def __enter__(self) -> MetricLogger:
        return self

    def __exit__(self, *error: object) -> None:
        self.rows.close()
        self.events.close()
        if self.bar is not None:
            self.bar.close()

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float | None]) -> None:
        """Write a row to ``metrics.jsonl`` and each value to TensorBoard as ``split/name``.

        None and non-finite numbers become null.
        """
        finite = {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
        self.rows.write(json.dumps({"step": step, "epoch": round(epoch, 4), "split": split, **finite}) + "\n")
        self.rows.flush()
        for name, value in values.items():
            if value is not None:
                self.events.add_scalar(f"{split}/{name}", value, step)

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """Write an image (H, W, 3) uint8 to TensorBoard."""
        self.events.add_image(tag, image, step, dataformats="HWC")

    def advance(self, step: int) -> None:
        """Move the progress bar to a step."""
        if self.bar is not None:
            self.bar.update(step - self.step)
        self.step = step

    def log_progress(self, step: int, epoch: float, loss: float, lr: float, images_per_s: float, waiting: float) -> None:
        """Show progress on the bar or as a line.

        Without a terminal, a line is printed every 15 seconds.
        """
        text = f"loss {loss:.4f}  lr {lr:.2e}  {images_per_s:.1f} img/s  waiting for data {100 * waiting:.0f}%"
        now = time.perf_counter()
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        elif now - self.last_line > INFO_INTERVAL or step == self.total_steps:
            self.last_line = now
            seconds = int((now - self.started) / max(step - self.first_step, 1) * (self.total_steps - step))
            eta = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
            print(f"step {step}/{self.total_steps}  epoch {epoch:.2f}  {text}  eta {eta}", flush=True)

    def info(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.bar is not None:
            self.bar.write(text)
        else:
            print(text, flush=True)


class NullLogger(MetricLogger):
    """Logger that discards everything, for ranks that do not write."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float | None]) -> None:
        pass

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        pass

    def advance(self, step: int) -> None:
        pass

    def log_progress(self, step: int, epoch: float, loss: float, lr: float, images_per_s: float, waiting: float) -> None:
        pass

    def info(self, text: str) -> None:
        pass


def open_log(run: RunDir, step: int, total_steps: int, config: PlainMapping, dist: Distributed) -> MetricLogger:
    """Open the log of a run at ``step``.

    Ranks above 0 get a ``NullLogger``.
    """
    if not dist.is_main:
        return NullLogger()
    return MetricLogger(run.path, step, read_scores(step_dir(run.path, step)) is not None, total_steps, config)


def _remove_rows_after(path: Path, step: int, evaluated: bool) -> None:
    """Remove rows logged after the checkpoint to resume from.

    A truncated last line is removed as well.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["step"] < step or (row["step"] == step and (evaluated or row["split"] != "val")):
            kept.append(line + "\n")
    write_text(path, "".join(kept))
