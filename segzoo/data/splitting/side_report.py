"""Images, groups and classes of each side of a split.

Also finds folders and prefixes of names that several sides share.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segzoo.data.splitting.grouping import group_names
from segzoo.messages import format_override, printable

MAX_WORDS = 6  # of a prefix that several names share
MAX_LISTED = 3  # prefixes in a note
MAX_CLASSES = 30  # in a table; of more, the rarest
FOLDER = r"^(.+)/"


@dataclass(frozen=True)
class Side:
    """Images of one side of a split.

    Attributes:
        stems: their names.
        groups: name of the group of each of them.
        class_counts: (images read, classes) labeled pixels of each class in those that were read.
    """

    stems: Sequence[str]
    groups: Sequence[str]
    class_counts: np.ndarray

    @property
    def class_images(self) -> list[int]:
        """Images read that contain each class."""
        return (self.class_counts > 0).sum(0).tolist()


def side_rows(sides: Mapping[str, Side], classes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Tabulate the sides of a split.

    Returns:
        The header, and rows of cells: images, groups, and images with each class, of many classes with the rarest.
    """
    total = sum(len(side.stems) for side in sides.values())
    is_sample = any(len(side.class_counts) < len(side.stems) for side in sides.values())
    rows = [["images", *(f"{len(side.stems)} ({len(side.stems) / max(total, 1):.1%})" for side in sides.values())]]
    if any(len(set(side.groups)) < len(side.stems) for side in sides.values()):
        rows.append(["groups", *(str(len(set(side.groups))) for side in sides.values())])
    rows += [["images read", *(str(len(side.class_counts)) for side in sides.values())]] if is_sample else []
    images = np.array([side.class_images for side in sides.values()])
    shown = np.sort(np.argsort(images.sum(0), kind="stable")[:MAX_CLASSES]).tolist()
    rows += [[f"with {classes[index]}", *map(str, images[:, index])] for index in shown if classes[index] != "ignore"]
    return ["", *sides], rows


def absent_class_notes(sides: Mapping[str, Side], classes: Sequence[str]) -> Iterator[str]:
    """Remarks on classes that are absent from one side only."""
    images = np.array([side.class_images for side in sides.values()])
    for index in np.flatnonzero((images == 0).any(0) & (images > 0).any(0)).tolist():
        empty = [name for name, count in zip(sides, images[:, index], strict=True) if count == 0]
        yield (
            f"{' and '.join(empty)} {'has' if len(empty) == 1 else 'have'} no image with the class {classes[index]!r}, of "
            f"{images[:, index].sum()} in all."
        )


def shared_name_note(sides: Mapping[str, Sequence[str]], key: str = "data.group_by") -> str | None:
    """Warn about folders or prefixes of names that several sides share.

    Folders come first. Otherwise names are cut at ``_``, ``-``, blanks and ``/``, and the longest prefix that several names share
    counts. A folder or prefix that all names share says nothing.

    Args:
        sides: name of each side and its stems.
        key: the setting that would keep them together.
    """
    stems = [stem for own in sides.values() for stem in own]
    for kind, pattern in (("folder", FOLDER), *(("prefix", _prefix(words)) for words in range(MAX_WORDS, 0, -1))):
        if any(re.search(pattern, stem) for stem in stems) and (note := _shared(kind, f"{pattern}|^(.*)$", sides, key)):
            return note
    return None


def _prefix(words: int) -> str:
    """Pattern of the first words of a longer name."""
    word, blank = r"[^_\-\s/]+", r"[_\-\s/]+"
    return f"^({word}(?:{blank}{word}){{{words - 1}}}){blank}" if words > 1 else f"^({word}){blank}"


def _shared(kind: str, pattern: str, sides: Mapping[str, Sequence[str]], key: str) -> str | None:
    images: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(sides, 0))
    for side, stems in sides.items():
        for group in group_names(stems, pattern):
            images[group][side] += 1
    shared = {group: counts for group, counts in images.items() if sum(count > 0 for count in counts.values()) > 1}
    if len(images) < 2 or not shared:
        return None
    largest = sorted(shared, key=lambda group: -sum(shared[group].values()))[:MAX_LISTED]
    listed = ", ".join(
        f"{printable(group)!r} ({', '.join(f'{count} in {side}' for side, count in shared[group].items() if count)})"
        for group in largest
    )
    more = f" and {len(shared) - MAX_LISTED} more" if len(shared) > MAX_LISTED else ""
    is_one = len(shared) == 1
    return (
        f"names with the same {kind} fall on several sides: {listed}{more}. If {f'this {kind}' if is_one else 'each'} stands for one part or "
        f"scene, scores will be too high: keep it together with {format_override(key, pattern)}."
    )
