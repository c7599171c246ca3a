"""Table of predicted images, written row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from segzoo.io import csv_text, write_atomically

HEAD = ("image", "file", "verdict", "failed rules", "ms")


class ImageTable:
    """The file ``images.csv``.

    Each row is on disk before the next one is computed, so a killed prediction loses none. Rows that it left are kept.

    Args:
        path: the file.
        columns: its columns behind those of ``HEAD``.
        resumed: keep the rows of the file that have these columns.
    """

    def __init__(self, path: Path, columns: Iterable[str], resumed: bool):
        self.path, self.header = path, [*HEAD, *columns]
        self._kept = {row[0]: row for row in self._read()} if resumed else {}
        self.failed = sum(row[2] == "fail" for row in self._kept.values())
        self._file: IO[str] | None = None

    def has(self, name: str) -> bool:
        """True if the opened file had a row of this image."""
        return _cell(name) in self._kept

    def drop(self, name: str) -> None:
        """Forget the row of an image that is labeled again."""
        if row := self._kept.pop(_cell(name), None):
            self.failed -= row[2] == "fail"

    def add(self, row: list[object]) -> None:
        """Append the row of an image."""
        if self._file is None:
            self._rewrite(self._kept.values())
            self._file = open(self.path, "a", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
        self.failed += row[2] == "fail"
        self._file.write(csv_text([row]))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self, order: Iterable[str]) -> None:
        """Close the file, and sort rows of several processes.

        Args:
            order: names of the images in the order of their source.
        """
        self.close()
        if self._kept:
            places = {_cell(name): place for place, name in enumerate(order)}
            self._rewrite(sorted(self._read(), key=lambda row: (places.get(row[0], len(places)), row[0])))

    def _rewrite(self, rows: Iterable[list[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)  # their cells are no formulas
        data = (csv_text([self.header]) + text.getvalue()).encode("utf-8", "backslashreplace")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, lambda file: file.write(data), durable=False)

    def _read(self) -> list[list[str]]:
        """Rows of the file that are complete."""
        try:
            with open(self.path, encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
        except (OSError, ValueError, csv.Error):
            return []
        expected = next(csv.reader(io.StringIO(csv_text([self.header]))))
        return [row for row in rows[1:] if len(row) == len(expected)] if rows[:1] == [expected] else []


def _cell(name: str) -> str:
    """The cell of a name, as it is read back."""
    return next(csv.reader(io.StringIO(csv_text([[name]]))))[0]
