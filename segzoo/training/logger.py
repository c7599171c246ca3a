"""Log of a run.

It writes ``metrics.jsonl``, passes the same numbers to the loggers, and shows a progress bar or plain lines.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segzoo.checkpoints.serialization import read_scores
from segzoo.checkpoints.store import read_pointer, step_dir
from segzoo.distributed import Distributed
from segzoo.io import write_text
from segzoo.loggers.group import LoggerGroup
from segzoo.runs.run_dir import RunDir

INFO_INTERVAL = 15.0  # seconds between progress lines without a terminal
BAR_FORMAT = "{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt}  {desc}"  # the text is shortened, the bar is not


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
    """Open log of a run, for use in a ``with`` block.

    Args:
        path: the run directory.
        step: optimizer steps already done. Rows that an interrupted process logged after them are removed.
        evaluated: whether the evaluation of that step is complete. Otherwise its row is removed, too.
        total_steps: length of the run.
        loggers: where numbers and images go as well. The caller closes them.

    Attributes:
        best_miou: mIoU of the best checkpoint so far, shown with the progress.
    """

    best_miou: float | None = None

    def __init__(self, path: Path, step: int, evaluated: bool, total_steps: int, loggers: LoggerGroup):
        from tqdm import tqdm

        self.step, self.total_steps = step, total_steps
        self.started, self.last_line, self.first_step = time.perf_counter(), -math.inf, step
        _remove_rows_after(path / "metrics.jsonl", step, evaluated)
        self.rows = open(path / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        self.loggers = loggers
        shown = sys.stderr.isatty()
        self.bar = tqdm(total=total_steps, initial=step, dynamic_ncols=True, bar_format=BAR_FORMAT) if shown else None

    def __enter__(self) -> MetricLogger:
        return self

    def __exit__(self, *error: object) -> None:
        self.rows.close()
        if self.bar is not None:
            self.bar.close()

    def count_rows(self, split: str, after: int) -> int:
        """Count the rows of a split after a step."""
        self.rows.flush()
        rows = map(json.loads, Path(self.rows.name).read_text(encoding="utf-8").splitlines())
        return sum(row.get("split") == split and row.get("step", 0) > after for row in rows)

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float | None]) -> None:
        """Write a row to ``metrics.jsonl`` and pass it to the loggers.

        They name each value ``split/name``. In the file, None and non-finite numbers become null.
        """
        finite = {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
        self.rows.write(json.dumps({"step": step, "epoch": round(epoch, 4), "split": split, **finite}) + "\n")
        self.rows.flush()
        self.loggers.log({f"{split}/{name}": value for name, value in values.items() if value is not None}, step)

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """Pass an image (H, W, 3) uint8 to the loggers."""
        self.loggers.image(tag, image, step)

    def advance(self, step: int) -> None:
        """Move the progress bar to a step."""
        if self.bar is not None:
            self.bar.update(step - self.step)
        self.step = step

    def log_progress(self, step: int, epoch: float, loss: float, lr: float, images_per_s: float, waiting: float) -> None:
        """Show progress on the bar or as a line.

        Without a terminal, a line is printed every 15 seconds. The remaining time assumes that evaluations and checkpoints take the same
        fraction of the time as so far.
        """
        now = time.perf_counter()
        seconds = int((now - self.started) / max(step - self.first_step, 1) * (self.total_steps - step))
        eta = f"eta {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        best = [] if self.best_miou is None else [f"best mIoU {100 * self.best_miou:.2f}"]
        rates = [f"lr {lr:.2e}", f"{images_per_s:.1f} img/s", f"waiting for data {100 * waiting:.0f}%"]
        if self.bar is not None:
            width = (self.bar.format_dict["ncols"] or 80) - len(f"100%|{'':10}| {self.total_steps}/{self.total_steps}  ")
            self.bar.set_description_str(fit_parts([f"loss {loss:.4f}", eta, *best, *rates], width))
        elif now - self.last_line > INFO_INTERVAL or step == self.total_steps:
            self.last_line = now
            parts = [f"step {step}/{self.total_steps}", f"epoch {epoch:.2f}", f"loss {loss:.4f}", *best, *rates]
            print("  ".join([*parts, f"{eta} with evaluations"]), flush=True)

    def info(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.bar is not None:
            self.bar.write(text)
        else:
            print(text, flush=True)


def fit_parts(parts: Sequence[str], width: int) -> str:
    """Join the first parts that fit into a width, at least one."""
    count = max([1, *(number for number in range(1, len(parts) + 1) if len("  ".join(parts[:number])) < width)])
    return "  ".join(parts[:count])


class NullLogger(MetricLogger):
    """Logger that discards everything, for ranks that do not write."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def count_rows(self, split: str, after: int) -> int:
        """Count the rows of a split after a step."""
        return 0

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


def open_log(run: RunDir, step: int, total_steps: int, loggers: LoggerGroup, dist: Distributed) -> MetricLogger:
    """Open the log of a run at ``step``.

    Ranks above 0 get a ``NullLogger``.
    """
    if not dist.is_main:
        return NullLogger()
    log = MetricLogger(run.path, step, read_scores(step_dir(run.path, step)) is not None, total_steps, loggers)
    best = read_pointer(run.path, "best")
    log.best_miou = (read_scores(best) or {}).get("miou") if best else None
    return log


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
        own_step = row.get("step", 0)
        if own_step < step or (own_step == step and (evaluated or row.get("split") != "val")):
            kept.append(line + "\n")
    write_text(path, "".join(kept))
