"""Progress of long loops, on a terminal or in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
BAR_DELAY, LINE_INTERVAL = 2.0, 60.0  # seconds until a bar appears, and between lines in a log file


def with_progress(items: Iterable[T], total: int, unit: str, action: str) -> Iterator[T]:
    """Iterate and show the progress on standard error.

    A terminal shows a bar, a log file a line every minute, and short loops show nothing.

    Args:
        items: what to iterate over.
        total: number of items.
        unit: what they are, in the plural.
        action: what is done with them, such as ``evaluating``.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, unit=f" {unit}", desc=action, leave=False, delay=BAR_DELAY, dynamic_ncols=True)
        return
    printed = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - printed > LINE_INTERVAL:
            printed = time.monotonic()
            print(f"{action}: {done} of {total} {unit}", file=sys.stderr, flush=True)
        yield item
