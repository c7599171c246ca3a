"""Progress of long loops, on a terminal or in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
BAR_DELAY, LINE_INTERVAL = 2.0, 60.0  # seconds until a bar appears, and between lines in a log file


def with_progress(
    items: Iterable[T], total: int | None, unit: str, action: str, remark: Callable[[], str] | None = None
) -> Iterator[T]:
    """Iterate and show the progress on standard error.

    A terminal shows a bar, a log file a line every minute, and short loops show nothing.

    Args:
        items: what to iterate over.
        total: number of items, None if it is unknown.
        unit: what they are, in the plural.
        action: what is done with them, such as ``evaluating``.
        remark: returns what to show after the number of items, which a log file then follows with the rate.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, unit=f" {unit}", desc=action, leave=False, delay=BAR_DELAY, dynamic_ncols=True) as bar:
            for item in items:
                yield item
                if remark:
                    bar.set_postfix_str(remark(), refresh=False)
                bar.update()
        return
    started = printed = time.monotonic()
    of_total = "" if total is None else f" of {total}"
    for done, item in enumerate(items):
        if time.monotonic() - printed > LINE_INTERVAL:
            printed = time.monotonic()
            more = f", {done / (printed - started):.3g} {unit}/s, {remark()}" if remark else ""
            print(f"{action}: {done}{of_total} {unit}{more}", file=sys.stderr, flush=True)
        yield item
