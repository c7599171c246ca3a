"""Printing never ends a tool."""

from __future__ import annotations

import errno
import io
import re
import subprocess
import sys

import pytest
import torch

from segzoo.cli import app
from segzoo.cli.console import make_output_robust
from segzoo.system_errors import MEMORY_ADVICE, system_error_text
from segzoo.training.dry_run import OutOfMemory
from segzoo.training.state import Diverged


@pytest.fixture(autouse=True)
def _first_command(monkeypatch):
    """Each test is the first command of its process, as tools are."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.delenv("HYDRA_FULL_ERROR")


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


def failing_tool(monkeypatch, error):
    """A tool that raises an error, as the command line calls it."""

    def tool(job):
        raise error

    monkeypatch.setattr(sys, "argv", ["describe", "model=icnet"])
    return tool


@pytest.mark.parametrize("error", [Diverged("the loss is nan at step 3"), OutOfMemory("out of memory on cpu")])
def test_a_training_that_cannot_go_on_ends_with_one_line(monkeypatch, error):
    tool = failing_tool(monkeypatch, error)
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


WORKER = "DataLoader worker (pid 7) is killed by signal: "
SHARED = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
IN_WORKER = "Caught OSError in worker.\nOSError: [Errno 24] Too many open files"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError(f"{WORKER}Killed. "), f"RuntimeError: {WORKER}Killed. The system has probably killed it"),
        (
            RuntimeError(f"{WORKER}Bus error. It is out of shared memory. "),
            r"RuntimeError: .* out of shared memory. The shared memory /dev/shm",
        ),
        (RuntimeError(f"{WORKER}Segmentation fault. "), "RuntimeError: .* Segmentation fault. Set workers=0 to see why"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "RuntimeError: .* exited unexpectedly. Set workers=0"),
        (RuntimeError(SHARED), "RuntimeError: unable to allocate .*docker run --shm-size"),
        (OSError(IN_WORKER), "OSError: .*Too many open files. Raise the limit"),
        (OSError(errno.ENOSPC, "No space left on device", "a/model.onnx"), "OSError: a/model.onnx: no space left on device. Free"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "PermissionError: out: permission denied. Change its"),
    ],
)
def test_trouble_with_the_machine_ends_with_one_line(monkeypatch, error, line):
    tool = failing_tool(monkeypatch, error)
    with pytest.raises(SystemExit) as exit_info:
        app.run(tool, "describe")
    text = str(exit_info.value.code)
    assert re.match(line.replace("(", r"\(").replace(")", r"\)"), text) and "\n" not in text


GPU_FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.00 GiB of which 1.00 GiB is free."


def test_a_full_gpu_ends_with_advice_for_the_tool(monkeypatch):
    assert "Set batch=1, precision=bf16, or protocol=slide" in str(system_error_text(RuntimeError(GPU_FULL), "predict"))
    assert "End other programs" in str(system_error_text(RuntimeError(GPU_FULL), "export"))
    monkeypatch.setitem(MEMORY_ADVICE, "describe", "Set less.")
    with pytest.raises(SystemExit) as exit_info:
        app.run(failing_tool(monkeypatch, torch.OutOfMemoryError(GPU_FULL)), "describe")
    assert str(exit_info.value.code).startswith(
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. Set less. Then give"
    )


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not match"),
        FileNotFoundError(errno.ENOENT, "No such file", "/dev/shm/a.txt"),
        PermissionError(errno.EPERM, "Operation not permitted"),
    ],
)
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    tool = failing_tool(monkeypatch, error)
    with pytest.raises(type(error)):
        app.run(tool, "describe")


def test_an_interrupt_says_so(monkeypatch, capsys):
    tool = failing_tool(monkeypatch, KeyboardInterrupt())
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
