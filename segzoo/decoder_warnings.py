"""Warnings of image decoders, which several threads ignore at the same time.

It needs only the standard library, because each exported bundle contains a copy of this file.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_lock, _filters, _threads = threading.Lock(), ExitStack(), 0


@contextmanager
def decoder_warnings_ignored() -> Iterator[None]:
    """Ignore the warnings of decoders until the last thread has left.

    ``warnings.catch_warnings`` alone would restore the filters of another thread, and leave them in place for good.
    """
    global _threads
    with _lock:
        if _threads == 0:
            _filters.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _threads += 1
    try:
        yield
    finally:
        with _lock:
            _threads -= 1
            if _threads == 0:
                _filters.close()


def _reset_child() -> None:
    """Forget the threads of the parent, which a forked process lacks."""
    global _lock, _filters, _threads
    _filters.close()
    _lock, _filters, _threads = threading.Lock(), ExitStack(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_child)
