"""Files of one split or of all splits of a data set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Protocol, get_args

from segzoo.data.file_index import FileIndex, FilePair
from segzoo.data.splits import SPLITS, Split, SplitOrAll
from segzoo.data.splitting.patterns import group_pattern_error
from segzoo.data.splitting.ratio_split import RatioSplit
from segzoo.messages import Example, unknown_name_error

Patterns = Annotated[tuple[str, ...], Example(["rgb/{split}/{stem}.png", "nir/{split}/{stem}.png"])]


class SplitFiles(Protocol):
    """Files of one split."""

    def exists(self) -> bool:
        """Return true if the folder or the list of the split exists."""
        ...

    def check_location(self) -> None:
        """Raise DataError if the folder or the list does not exist."""
        ...

    def __call__(self) -> list[FilePair]: ...


@dataclass(frozen=True)
class AllSplits:
    """Union of the splits that exist, or of all if ``complete``."""

    splits: tuple[SplitFiles, ...]
    complete: bool = False

    def exists(self) -> bool:
        """Return true if any split exists."""
        return any(split.exists() for split in self.splits)

    def check_location(self) -> None:
        """Raise DataError if no split exists."""
        if not self.exists():
            self.splits[0].check_location()

    def __call__(self) -> list[FilePair]:
        present = self.splits if self.complete else [split for split in self.splits if split.exists()] or self.splits[:1]
        return list({pair.image_path: pair for split in present for pair in split()}.values())


def pattern_list(images: str | Sequence[str]) -> list[str]:
    """Patterns of the files that hold the channels of one image."""
    return [images] if isinstance(images, str) else list(images)


def index_split(
    split: SplitOrAll,
    root: str,
    images: str | tuple[str, ...],
    labels: str,
    lists: str | None,
    splits: Mapping[Split, str],
    val_ratio: float | None,
    group_by: str | None,
    need_labels: bool = True,
    missing_images_hint: str = "",
    missing_labels_hint: str = "",
    homepage: str | None = None,
) -> FileIndex | AllSplits:
    """Index the files of a split, or of all splits that exist.

    Without ``{split}`` in any pattern, ``all`` is every matching file.

    Args:
        split: train, val, test or all.
        root, labels, lists, need_labels, missing_images_hint, missing_labels_hint, homepage: as in ``FileIndex``.
        images: a pattern, or those of several files that hold the channels of one image.
        splits: names of the splits on disk. A missing name is that of the split.
        val_ratio, group_by: as in ``RatioSplit``, if nothing else separates the splits.
    """
    first, *others = pattern_list(images)
    hints = missing_images_hint, missing_labels_hint
    index = FileIndex(root, split, first, labels, lists, None, need_labels, *hints, homepage=homepage, more_images=tuple(others))
    if split != "all":
        ratio_split = None if val_ratio is None else RatioSplit(split, val_ratio, group_by)
        return replace(index, split=splits.get(split, split), ratio_split=ratio_split)
    names = [splits.get(name, name) for name in SPLITS] if "{split}" in first + (lists or "") else [split]
    return AllSplits(tuple(replace(index, split=name) for name in dict.fromkeys(names)))


def file_index_errors(
    split: str,
    images: str | tuple[str, ...],
    labels: str,
    lists: str | None,
    splits: Mapping[Split, str],
    val_ratio: float | None,
    group_by: str | None,
) -> list[str]:
    """Errors in the patterns and splits, one line each.

    No file is opened.
    """
    valid = get_args(SplitOrAll)
    errors = [unknown_name_error("split", split, valid)] if split not in valid else []
    required = ("train", "val")
    errors += [f"data.splits has no folder or list for {name!r}; add {name}: <name>." for name in required if name not in splits]
    patterns = pattern_list(images)
    errors += [] if patterns else ["data.images is empty. Give one pattern, or one for each file of an image."]
    for key, pattern, fields in (
        *(("images", pattern, ("stem", "split")) for pattern in patterns),
        ("labels", labels, ("stem", "split")),
        ("lists", lists or "", ("split",)),
    ):
        unknown = set(re.findall(r"\{(.*?)\}", pattern)) - set(fields)
        if unknown or pattern.count("{stem}") != (key != "lists"):
            rule = (
                "must contain {stem} once and may contain {split}" if key != "lists" else "may contain {split} and no other field"
            )
            errors.append(f"data.{key}={pattern!r}: the pattern {rule}.")
        if "*" in pattern.removesuffix(".*"):
            errors.append(
                f"data.{key}={pattern!r}: `*` is only allowed in the extension `.*` (any image format); {{stem}} already spans folders."
            )
    if labels in patterns:
        errors.append(
            f"data.images and data.labels are the same pattern {labels!r}. Give the labels a folder or a name of their own."
        )
    separate = any("{split}" in pattern for pattern in (*patterns, lists or ""))
    if split == "test" and val_ratio is not None:
        errors.append("data.val_ratio separates val from train, so there is no test. Set split=val or split=all.")
    if not separate and val_ratio is None and split != "all":
        errors.append("nothing separates train from val: add {split} to data.images or data.lists, or set data.val_ratio=0.2.")
    if separate and val_ratio is not None:
        errors.append(
            "data.val_ratio splits images that are not split otherwise: remove {split} from data.images and data.lists, or set "
            "data.val_ratio=null."
        )
    if group_by is not None and val_ratio is None:
        errors.append(
            f"data.group_by={group_by!r} keeps groups together that data.val_ratio assigns, which is null. Set data.val_ratio=0.2, or "
            "data.group_by=null."
        )
    if group_by is not None and (error := group_pattern_error("data.group_by", group_by)):
        errors.append(error)
    return errors
