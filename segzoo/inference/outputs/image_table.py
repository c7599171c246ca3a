"""Table of predicted images, written row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from segzoo.distributed import SINGLE_PROCESS, Distributed
from segzoo.io import csv_text, write_atomically

HEAD = ("image", "file", "verdict", "failed rules", "ms")


class ImageTable:
    """The file ``images.csv``.

    Each row is on disk before the next one is computed, so a killed prediction loses none. Rows that it left are kept. Each further rank
    appends to a file of its own, ``images.rank<n>.csv``, and rank 0 joins them in the end.

    Args:
        path: the file.
        columns: its columns after those of ``HEAD``.
        resumed: keep the rows of the file that have these columns.
        distributed: the ranks that share the images.
    """

    def __init__(self, path: Path, columns: Iterable[str], resumed: bool, distributed: Distributed = SINGLE_PROCESS):
        self.path, self.header, self._distributed = path, [*HEAD, *columns], distributed
        self._own_path = path if distributed.is_main else path.with_suffix(f".rank{distributed.rank}{path.suffix}")
        distributed.run_on_rank0(lambda: self._collect(resumed))
        self._kept = {row[0]: row for row in self._read(path)} if resumed else {}
        self._joins = resumed or distributed.size > 1
        self.failed = 0  # of this run; all that failed once ``finish`` has joined them
        self._file: IO[str] | None = None

    def has(self, name: str, origin: str) -> bool:
        """True if the opened file had a row of this image.

        Args:
            name: its name, which another file may have had before.
            origin: its file.
        """
        row = self._kept.get(_cell(name))
        return row is not None and row[1] == _cell(origin)

    def drop(self, name: str) -> None:
        """Forget the row of an image that is labeled again."""
        self._kept.pop(_cell(name), None)

    def add(self, row: list[object]) -> None:
        """Append the row of an image."""
        if self._file is None:
            self._rewrite(self._own_path, self._kept.values() if self._distributed.is_main else ())
            self._file = open(self._own_path, "a", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
        self.failed += row[2] == "fail"
        self._file.write(csv_text([row]))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self, order: Iterable[str]) -> None:
        """Close the file, and join the rows of processes and runs.

        Rows of images that the source no longer has are kept, but are no failures any more.

        Args:
            order: names of the images in the order of their source, empty if they are unknown.
        """
        self.close()
        self._distributed.gather(None)  # every rank has closed its file
        if self._joins:
            self._distributed.run_on_rank0(lambda: self._join(order))

    def _collect(self, resumed: bool) -> None:
        """Join rows that killed ranks left, or remove them."""
        if resumed and self._parts():
            self._join(())
        for part in self._parts():
            part.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.rank*{self.path.suffix}"))

    def _join(self, order: Iterable[str]) -> None:
        """Move the rows of all ranks into one file, sorted."""
        places, parts = {_cell(name): place for place, name in enumerate(order)}, self._parts()
        rows = {row[0]: row for path in (self.path, *parts) for row in self._read(path)}  # later ones are newer
        self.failed = sum(row[2] == "fail" for row in rows.values() if not places or row[0] in places)
        self._rewrite(self.path, sorted(rows.values(), key=lambda row: (places.get(row[0], len(places)), row[0])))
        for part in parts:
            part.unlink()

    def _rewrite(self, path: Path, rows: Iterable[list[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)  # their cells are not formulas
        data = (csv_text([self.header]) + text.getvalue()).encode("utf-8", "backslashreplace")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(data), durable=False)

    def _read(self, path: Path) -> list[list[str]]:
        """Rows of a file that are complete."""
        try:
            with open(path, encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
        except (OSError, ValueError, csv.Error):
            return []
        expected = next(csv.reader(io.StringIO(csv_text([self.header]))))
        return [row for row in rows[1:] if len(row) == len(expected)] if rows[:1] == [expected] else []


def _cell(name: str) -> str:
    """The cell of a name, as it is read back."""
    written = csv_text([[name]]).encode("utf-8", "backslashreplace").decode()
    return next(csv.reader(io.StringIO(written)))[0]
