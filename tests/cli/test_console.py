"""Printing never ends a tool."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from segzoo.cli import app
from segzoo.cli.console import make_output_robust
from segzoo.training.dry_run import OutOfMemory
from segzoo.training.state import Diverged


class Failing(io.RawIOBase):
    """A pipe without a reader, a closed terminal or a full disk."""

    def __init__(self, number: int):
        self.number = number

    def writable(self):
        return True

    def write(self, data):
        raise OSError(self.number, "cannot write")


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_output_that_cannot_be_written_raises_no_error(monkeypatch, number):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Failing(number), 16), line_buffering=True))
    monkeypatch.setattr(sys, "stderr", None)  # closed by >&-
    make_output_robust()
    make_output_robust()
    for _ in range(3):
        print("class  IoU", flush=True)
        print("gone", file=sys.stderr)
    assert sys.stdout.encoding and sys.stderr is None


def test_characters_that_the_terminal_lacks_are_escaped(monkeypatch):
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding="ascii"))
    make_output_robust()
    print("\u80cc\u666f 50.0", flush=True)
    assert screen.getvalue() == b"\\u80cc\\u666f 50.0\n"


@pytest.mark.parametrize("error", [Diverged("the loss is nan at step 3"), OutOfMemory("out of memory on cpu")])
def test_a_training_that_cannot_go_on_ends_with_one_line(monkeypatch, error):
    def tool(job):
        raise error

    monkeypatch.setattr(sys, "argv", ["describe", "model=icnet"])
    with pytest.raises(SystemExit) as exit_info:
        app.run(tool, "describe")
    assert exit_info.value.code == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(("result", "code"), [({"exit_code": 3}, 3), (None, None)])
def test_a_tool_chooses_its_exit_code(monkeypatch, result, code):
    monkeypatch.setattr(sys, "argv", ["describe", "model=icnet"])
    if code is None:
        app.run(lambda job: result, "describe")
        return
    with pytest.raises(SystemExit) as exit_info:
        app.run(lambda job: result, "describe")
    assert exit_info.value.code == code
