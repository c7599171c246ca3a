"""Long loops show their progress and change nothing."""

from __future__ import annotations

import io
import sys

import pytest

from segzoo import progress
from segzoo.progress import with_progress


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_loop_shows_its_progress(monkeypatch, terminal):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "BAR_DELAY", 0)
    monkeypatch.setattr(progress, "LINE_INTERVAL", -1)
    assert list(with_progress("abc", 3, "images", "evaluating")) == ["a", "b", "c"]
    shown = stream.getvalue()
    assert ("evaluating: 1 of 3 images\n" in shown) != terminal and ("| 0/3" in shown) == terminal


def test_a_remark_and_the_rate_follow_in_a_log_file(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_INTERVAL", -1)
    assert list(with_progress("ab", None, "frames", "predicting", lambda: "limited by reading")) == ["a", "b"]
    line = capsys.readouterr().err.splitlines()[1]
    assert line.startswith("predicting: 1 frames, ") and line.endswith(" frames/s, limited by reading")


def test_a_short_loop_shows_nothing(capsys):
    assert sum(with_progress([1, 2], 2, "windows", "sliding")) == 3
    assert capsys.readouterr() == ("", "")
