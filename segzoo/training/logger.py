"""What a run tells: TensorBoard events, one JSON line a row in metrics.jsonl, and a progress bar or plain lines on the screen."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segzoo.checkpoints.serialization import read_scores
from segzoo.checkpoints.store import step_dir
from segzoo.distributed import Distributed
from segzoo.io import write_text
from segzoo.runs.run_dir import RunDir

INFO_INTERVAL = 15.0  # seconds between lines where there is no terminal


class AverageMeters:
    """Running means of named numbers; their state goes into checkpoints, so that a resumed run logs the same rows."""

    def __init__(self, state: Mapping[str, list[float]] | None = None):
        self.sums = {name: list(pair) for name, pair in (state or {}).items()}  # name -> [sum, count]

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            pair = self.sums.setdefault(name, [0.0, 0])
            pair[0] += value
            pair[1] += 1

    def pop(self) -> dict[str, float]:
        """The means since the last call; starts anew."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means

    def state(self) -> dict[str, list[float]]:
        return {name: list(pair) for name, pair in self.sums.items()}


class MetricLogger:
    """The open logs of one run.

    Args:
        folder: the run directory.
        step: optimizer steps done before; rows that an interrupted earlier part wrote after them are removed.
        evaluated: whether the evaluation of that step is complete; else its row is removed too.
        total: steps of the whole run.
        config: written to TensorBoard as text.
    """

    def __init__(self, folder: Path, step: int, evaluated: bool, total: int, config: Mapping[str, Any]):
        import yaml
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        self.step, self.total = step, total
        self.started, self.spoke, self.first = time.perf_counter(), -math.inf, step
        _forget_rows_after(folder / "metrics.jsonl", step, evaluated)
        self.rows = open(folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)
        self.events = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        self.events.add_text("config", "    " + yaml.safe_dump(dict(config), sort_keys=False).replace("\n", "\n    "), step)
        self.bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None

    def __enter__(self) -> MetricLogger:
        return self

    def __exit__(self, *error: object) -> None:
        self.rows.close()
        self.events.close()
        if self.bar is not None:
            self.bar.close()

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float | None]) -> None:
        """One row in metrics.jsonl, and one TensorBoard scalar ``split/name`` a value; None and non-finite numbers become null."""
        shown = {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
        self.rows.write(json.dumps({"step": step, "epoch": round(epoch, 4), "split": split, **shown}) + "\n")
        self.rows.flush()
        for name, value in values.items():
            if value is not None:
                self.events.add_scalar(f"{split}/{name}", value, step)

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """An image (H, W, 3) uint8 for TensorBoard."""
        self.events.add_image(tag, picture, step, dataformats="HWC")

    def advance(self, step: int) -> None:
        """Moves the bar to a step."""
        if self.bar is not None:
            self.bar.update(step - self.step)
        self.step = step

    def log_progress(self, step: int, epoch: float, loss: float, lr: float, images_per_s: float, waiting: float) -> None:
        """What a person watches: beside the bar or, where there is no terminal, a line of its own every quarter of a minute."""
        words = f"loss {loss:.4f}  lr {lr:.2e}  {images_per_s:.1f} img/s  waiting for data {100 * waiting:.0f}%"
        now = time.perf_counter()
        if self.bar is not None:
            self.bar.set_postfix_str(words)
        elif now - self.spoke > INFO_INTERVAL or step == self.total:
            self.spoke = now
            seconds = int((now - self.started) / max(step - self.first, 1) * (self.total - step))
            eta = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
            print(f"step {step}/{self.total}  epoch {epoch:.2f}  {words}  eta {eta}", flush=True)

    def info(self, text: str) -> None:
        """A line of text that does not break the bar."""
        if self.bar is not None:
            self.bar.write(text)
        else:
            print(text, flush=True)


class NullLogger(MetricLogger):
    """The log of the ranks that do not write: it takes everything and tells nothing."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float | None]) -> None:
        pass

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        pass

    def advance(self, step: int) -> None:
        pass

    def log_progress(self, step: int, epoch: float, loss: float, lr: float, images_per_s: float, waiting: float) -> None:
        pass

    def info(self, text: str) -> None:
        pass


def open_log(run: RunDir, step: int, total: int, config: Mapping[str, Any], world: Distributed) -> MetricLogger:
    """The log of a run that goes on after ``step``; a silent one on ranks above 0."""
    if not world.is_main:
        return NullLogger()
    return MetricLogger(run.path, step, read_scores(step_dir(run.path, step)) is not None, total, config)


def _forget_rows_after(path: Path, step: int, evaluated: bool) -> None:
    """Takes away rows written after the checkpoint a run goes on from, and a last line cut short."""
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
