"""Writing of a page, whose failure loses no result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from segzoo.io import write_text

PAGE = "report.html"


def write_page(folder: Path, render: Callable[[], str] | None) -> None:
    """Write ``report.html``, or print a warning if that fails.

    A page of former results is removed first.

    Args:
        folder: where to write it.
        render: returns the page; None writes none.
    """
    from tqdm import tqdm

    path = folder / PAGE
    try:
        path.unlink(missing_ok=True)
        if render is not None:
            write_text(path, render())
    except Exception as error:  # of any kind: the result is complete without its page
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        tqdm.write(f"warning: {path} was not written: {line}", file=sys.stderr)
