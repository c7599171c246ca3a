"""Report of an action, and the splits it works on."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import get_args

from segzoo.config.build import build_data
from segzoo.data.paired_dataset import PairedDataset
from segzoo.data.splits import Split
from segzoo.registry import ConfigError
from segzoo.types import Dataset, PlainDict, PlainMapping


@dataclass(frozen=True)
class ActionReport:
    """Result of an action.

    Attributes:
        text: for the terminal.
        result: plain values for ``dataset.json``.
        errors: errors of the data set, one line each. With any, the tool ends with exit code 2.
    """

    text: str
    result: PlainDict
    errors: list[str] = field(default_factory=list)


def existing_splits(data: PlainMapping) -> dict[str, Dataset]:
    """Build the splits of a data set that exist on disk.

    A data set without splits, such as a folder that ``action=split`` is still to divide, has the single split ``all``.

    Args:
        data: the ``data`` section.

    Raises:
        DataError: none exists; says where the first one was expected.
    """
    splits: dict[str, Dataset] = {}
    for split in get_args(Split):
        with suppress(ConfigError):  # a data set without this split; its settings have been checked
            splits[split] = build_data(data, split)
    if not splits:
        return {"all": build_data(data, "all")}
    existing = {name: split for name, split in splits.items() if not isinstance(split, PairedDataset) or split.exists()}
    if not existing:
        next(iter(splits.values())).scan()
    return existing
