"""Progress on a terminal and in a log file."""

from __future__ import annotations

import io
import re
import sys

import pytest

from segzoo.loggers.group import NO_LOGGERS
from segzoo.training.logger import MetricLogger, fit_parts


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
