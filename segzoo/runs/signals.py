"""Ctrl-C, SIGTERM and a scheduler's SIGUSR1, heeded between steps: the run saves, and ends with exit code 130 or 143."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignal:
    """A ``with`` block in which SIGINT, SIGTERM and SIGUSR1 only raise a flag; a second SIGINT interrupts at once.

    Outside the main thread Python cannot catch signals; the flag then stays down.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._previous_handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def check(self, message: str = "stopped") -> None:
        """Does nothing until a signal came, then leaves the run.

        Raises:
            KeyboardInterrupt: after SIGINT, carrying ``message``.
            SystemExit: after SIGTERM or SIGUSR1, with code 143; ``message`` goes to standard error.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt(message)
        if self.requested:
            print(message, file=sys.stderr, flush=True)
            raise SystemExit(128 + signal.SIGTERM)

    def exit(self, message: str) -> NoReturn:
        """Leaves the run as ``check`` does, also where the signal came to another rank."""
        self.check(message)
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(128 + signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt("interrupted at once; the newest checkpoint is from before this step")
        if self.signal is None:
            self.signal = number
            name = signal.Signals(number).name
            print(f"\n{name}: finishing this step, then saving. Ctrl-C once more stops at once.", file=sys.stderr, flush=True)
