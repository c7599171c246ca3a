"""Graceful shutdown on SIGINT, SIGTERM, SIGUSR1 and SIGHUP.

Signals are handled between training steps: the run saves a checkpoint and exits with code 130 (SIGINT) or 143. Schedulers send
SIGUSR1 before the time limit. A terminal that closes sends SIGHUP, which ``nohup`` makes processes ignore.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

Handler = Callable[[int, FrameType | None], object] | int | None
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class StopSignal:
    """Context manager in which stop signals only set a flag.

    The signals are SIGINT, SIGTERM, SIGUSR1 and SIGHUP. SIGHUP stays ignored if it is ignored already, as under ``nohup``. A second
    SIGINT interrupts immediately. Outside the main thread Python cannot handle signals, and the flag is never set.

    Args:
        response: what follows a signal, for the line that is printed.
        loss: what a second SIGINT loses.
    """

    def __init__(
        self,
        response: str = "finishing this step, then saving",
        loss: str = "the newest checkpoint is from before this step",
    ) -> None:
        self.response, self.loss = response, loss
        self.signal: int | None = None
        self._previous_handlers: dict[int, Handler] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._previous_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def check(self, message: str = "stopped") -> None:
        """Exit the run if a signal arrived.

        Raises:
            KeyboardInterrupt: after SIGINT, with ``message``.
            SystemExit: after another signal, with code 143; ``message`` is printed to stderr.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt(message)
        if self.requested:
            print(message, file=sys.stderr, flush=True)
            raise SystemExit(128 + signal.SIGTERM)

    def exit(self, message: str) -> NoReturn:
        """Exit the run as ``check`` does, for signals to any rank."""
        self.check(message)
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(128 + signal.SIGTERM)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt(f"interrupted immediately; {self.loss}")
        if self.signal is None:
            self.signal = number
            name = signal.Signals(number).name
            print(f"\n{name}: {self.response}. Ctrl-C again stops immediately.", file=sys.stderr, flush=True)
