"""Progress on a terminal and in a log file."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace

import pytest
import torch

from segzoo.loggers.group import NO_LOGGERS
from segzoo.training import logger
from segzoo.training.logger import MetricLogger, NullLogger, fit_parts
from segzoo.training.results import log_step
from segzoo.training.state import TrainingState


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_progress_bar_keeps_its_width_on_80_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with MetricLogger(tmp_path, 0, False, 20000, NO_LOGGERS) as log:
        log.best_miou = 0.4567
        log.advance(12345)
        log.log_progress(12345, 1.0, 0.54321, 1e-3, 123.4, 0.1)
        log.info("step 12345: mIoU 45.67")
    lines = [line.strip() for line in re.split(r"[\r\n]", sys.stderr.getvalue())]  # type: ignore[attr-defined]
    [shown] = {line for line in lines if "loss" in line}
    assert re.fullmatch(r"62%\|.{10}\| 12345/20000  loss 0.5432  eta \d+:\d\d:\d\d  best mIoU 45.67", shown) and len(shown) < 80


def test_progress_in_a_file_names_everything(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with MetricLogger(tmp_path, 0, False, 20, NO_LOGGERS) as log:
        log.log_progress(10, 1.0, 0.54321, 1e-3, 123.4, 0.1)
    line = "step 10/20  epoch 1.00  loss 0.5432  lr 1.00e-03  123.4 img/s  waiting for data 10%  eta 0:00:00 with evaluations\n"
    assert capsys.readouterr().out == line


@pytest.mark.parametrize("width, text", [(3, "loss 1"), (13, "loss 1"), (14, "loss 1  eta 2"), (50, "loss 1  eta 2  best 3")])
def test_parts_that_do_not_fit_are_left_out(width, text):
    assert fit_parts(["loss 1", "eta 2", "best 3"], width) == text


class RecordedLog(NullLogger):
    """Keeps what is logged."""

    def __init__(self):
        self.rows, self.shown = {}, ()

    def write(self, step, epoch, split, values):
        self.rows[split] = dict(values)

    def log_progress(self, step, epoch, loss, lr, images_per_s, waiting):
        self.shown = loss, lr, images_per_s, waiting


def test_a_row_has_means_per_step_and_images_per_second():
    state, log = TrainingState(epoch_size=10), RecordedLog()
    state.update({"loss": 1.0}, images=4, seconds=0.5, waited=0.1)
    state.update({"loss": 3.0}, images=4, seconds=1.5, waited=0.3)
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [weight], "lr": rate} for weight, rate in zip(weights, (0.1, 0.01), strict=True)]
    assert log_step(state, torch.optim.SGD(groups), log) == (2.0, pytest.approx(0.2))
    assert log.rows["time"] == pytest.approx({"step_s": 1.0, "data_wait_fraction": 0.2, "images_per_s": 4.0})
    assert log.rows["train"] == {"loss": 2.0, "lr/0": 0.1, "lr/1": 0.01}
    assert log.shown == pytest.approx((2.0, 0.1, 4.0, 0.2)), "the highest of the rates"


def test_the_remaining_time_follows_from_the_steps_of_this_process(tmp_path, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(logger, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with MetricLogger(tmp_path, 10, False, 40, NO_LOGGERS) as log:
        now[0] += 3600.0
        log.log_progress(20, 1.0, 0.5, 1e-3, 1.0, 0.1)
    assert "eta 2:00:00 with evaluations" in capsys.readouterr().out
