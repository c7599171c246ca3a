"""Tables for terminals of any width."""

from __future__ import annotations

import io
import sys

from segzoo.reporting.text_table import Column, display_width, shorten, terminal_width, text_table

COLUMNS = [Column("name", ["a", "划痕"]), Column("x", ["1.0", "10.0"]), Column("y", ["2", "3"], 2), Column("z", ["4", "5"], 1)]


def test_wide_characters_take_two_columns():
    assert text_table(COLUMNS) == ["name     x  y  z", "a      1.0  2  4", "划痕  10.0  3  5"]
    assert {display_width(line) for line in text_table(COLUMNS)} == {16}
    assert shorten("划痕划痕", 5) == "划痕…" and shorten("划痕", 4) == "划痕" and display_width("e\u0301") == 1


def test_the_highest_rank_is_left_out_first():
    assert text_table(COLUMNS, 16)[0] == "name     x  y  z" and text_table(COLUMNS, 15)[0] == "name     x  z"
    assert text_table(COLUMNS, 12)[0] == "name     x" == text_table(COLUMNS, 1)[0]


def test_only_a_terminal_limits_the_width(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "33")
    assert terminal_width() is None
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert terminal_width() == 33
