"""Splits without lists, assigned by the hashes of names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from segzoo.data.splits import Split
from segzoo.data.splitting.assignment import assign_by_hash, hash_fraction
from segzoo.data.splitting.grouping import group_names
from segzoo.messages import printable
from segzoo.types import DataError


class RatioSplit(NamedTuple):
    """A split whose images are assigned by the hashes of their names.

    Images that are added later move no earlier one. In exchange, the fraction is approximate, and neither classes nor images that look
    the same are considered. The lists that ``tools/dataset.py action=split`` writes consider both.

    Attributes:
        split: ``val``, or ``train`` for the others.
        val_ratio: expected fraction in val.
        group_by: pattern of the names of groups that stay together, as in ``group_names``.
    """

    split: Split
    val_ratio: float
    group_by: str | None = None

    def select(self, stems: Sequence[str], root: str) -> list[str]:
        """Select the stems of this split.

        Args:
            stems: stems of all images.
            root: folder of the data set, for messages.

        Raises:
            DataError: there is none, or some stems have no group.
        """
        groups = group_names(stems, self.group_by)
        sides = assign_by_hash(groups, (self.val_ratio, 1 - self.val_ratio))
        selected = [stem for stem, side in zip(stems, sides, strict=True) if (side == 0) == (self.split == "val")]
        if stems and not selected:
            fractions = sorted(map(hash_fraction, groups))
            bound = (
                f"at least {fractions[0] + 0.001:.3f}"
                if self.split == "val"
                else f"at most {math.floor(fractions[-1] * 1000) / 1000:.3f}"
            )
            unit = "group" if self.group_by else "image"
            raise DataError(
                f"split {self.split!r} of {printable(root)} is empty: data.val_ratio={self.val_ratio:g} assigns it none of the {len(stems)} "
                f"images, because each {unit} is assigned by the hash of its name. Set data.val_ratio to {bound}, or list the images of "
                "each split in data.lists."
            )
        return selected
