"""Printing never ends a tool."""

from __future__ import annotations

import errno
import io
import subprocess
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
    assert sys.stdout.encoding and not sys.stderr.isatty()


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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "RuntimeError: a process that loads images was killed",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "RuntimeError: a process that loads images was killed"),
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left"),
            "RuntimeError: the shared memory",
        ),
        (
            OSError("Caught OSError in worker.\nOSError: [Errno 24] Too many open files"),
            "OSError: too many open files. Raise the limit",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a/model.onnx"),
            "OSError: runs/a/model.onnx: no space left on device. Free",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "out"),
            "PermissionError: out: permission denied. Change its permissions",
        ),
    ],
)
def test_trouble_with_the_machine_ends_with_one_line(monkeypatch, error, line):
    def tool(job):
        raise error

    monkeypatch.setattr(sys, "argv", ["describe", "model=icnet"])
    with pytest.raises(SystemExit) as exit_info:
        app.run(tool, "describe")
    assert str(exit_info.value.code).startswith(line) and "\n" not in str(exit_info.value.code)


def test_a_bug_keeps_its_traceback(monkeypatch):
    def tool(job):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(sys, "argv", ["describe", "model=icnet"])
    with pytest.raises(RuntimeError, match="shapes do not match"):
        app.run(tool, "describe")


def test_an_interrupt_says_so(monkeypatch, capsys):
    def tool(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["describe", "model=icnet"])
    with pytest.raises(SystemExit) as exit_info:
        app.run(tool, "describe")
    assert exit_info.value.code == 130 and capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_descriptor_ends_no_tool(tmp_path, closed):
    script = "import sys; from segzoo.cli.console import make_output_robust; make_output_robust()\n"
    script += "print('text'); print('text', file=sys.stderr); print(sys.stdout.isatty(), sys.stderr.isatty())\n"
    script += "open('scores.txt', 'w').write('1'); import os; os.write(1, b'C code'); os.write(2, b'C code')\n"
    done = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, script], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scores.txt").read_text() == "1"
