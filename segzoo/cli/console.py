"""Terminal output that never ends a tool."""

from __future__ import annotations

import io
import os
import sys
import warnings
from contextlib import suppress
from typing import Any, TextIO, cast

from hydra.core.utils import JobReturn, JobStatus


class _Console:
    """Text stream that drops what cannot be written.

    The reader of a pipe may have gone (EPIPE), the terminal may be closed (EIO), and the disk of a redirected log may be full (ENOSPC).
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def make_output_robust() -> None:
    """Make printing raise no errors from here on.

    This holds for standard output and standard error. Characters that the encoding of the terminal lacks are printed as backslash escapes.
    Where a process has none, as after ``>&-``, what is printed is dropped, and no other file gets its descriptor.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free descriptor, which is this one
    sys.stdout, sys.stderr = _robust(sys.stdout), _robust(sys.stderr)


def print_plain_messages() -> None:
    """Print a warning as one line and no list of overrides.

    Set the environment variable ``HYDRA_FULL_ERROR`` to see both in full.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors instead of printing them and exiting
    warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"

    def return_value(job: JobReturn) -> Any:
        if job.status is JobStatus.FAILED:
            raise job._return_value
        return job._return_value

    JobReturn.return_value = property(return_value, JobReturn.return_value.fset)  # type: ignore[assignment]


def _robust(stream: TextIO | None) -> TextIO:
    if stream is None:
        stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the rest of the process)
    if isinstance(stream, _Console):
        return cast(TextIO, stream)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return cast(TextIO, _Console(stream))
