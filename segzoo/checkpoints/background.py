"""Writing of checkpoints while the training continues."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self


class BackgroundWriter:
    """Calls functions one after the other in a thread.

    As a context manager it finishes them before the block is left. What one of them raises is raised by the next ``wait`` or at the end of
    the block, or noted on the error that ends the block.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: list[Future] = []

    def submit(self, write: Callable[[], object]) -> None:
        """Call a function after those that have been submitted before."""
        self._pending.append(self._thread.submit(write))

    def wait(self) -> None:
        """Wait until all functions have ended.

        Raises:
            Exception: the first one that a function has raised.
        """
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()
        for future in self._pending:
            if error is not None and (failure := future.exception()) is not None:
                error.add_note(f"A checkpoint could not be written: {type(failure).__name__}: {failure}")
