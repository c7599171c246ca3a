"""Methods that assign groups of images to sides.

A side is a split, such as train, or a fold. A group is never divided, and a single image is a group of one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np

Method = Literal["stratified", "random", "hash"]
TIE = 1e-9  # differences of needs that are rounding errors


def hash_fraction(name: str) -> float:
    """Hash of a name as a number from 0 to 1."""
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign_by_hash(names: Sequence[str], fractions: Sequence[float]) -> np.ndarray:
    """Assign each group by the hash of its own name.

    Groups that are added later move no earlier one. In exchange, the fractions are approximate, and classes are not considered.

    Args:
        names: a name for each group.
        fractions: expected fraction of the groups on each side, with the sum 1.

    Returns:
        (groups,) index of the side of each group
    """
    bounds = np.cumsum(fractions)[:-1]
    return np.searchsorted(bounds, [hash_fraction(name) for name in names], side="right")


def assign_at_random(sizes: np.ndarray, fractions: Sequence[float], random: np.random.Generator) -> np.ndarray:
    """Assign groups in random order to the side that needs most images.

    Larger groups come first. Single images are divided exactly, up to rounding.

    Args:
        sizes: (groups,) images in each group.
        fractions: fraction of the images on each side, with the sum 1.
        random: source of the order.

    Returns:
        (groups,) index of the side of each group
    """
    sides = np.full(len(sizes), -1)
    _fill(sides, sizes, np.asarray(fractions) * sizes.sum(), random)
    return sides


def assign_stratified(
    class_images: np.ndarray, sizes: np.ndarray, fractions: Sequence[float], random: np.random.Generator
) -> np.ndarray:
    """Assign groups so that every side gets its share of each class.

    Iterative stratification (Sechidis et al., ECML PKDD 2011, algorithm 1): the class that is left in the fewest groups comes first, and
    each of its groups goes to the side that needs most images of it, then to the one that needs most images. Of groups that differ in
    size, larger ones come first. Groups without any class are assigned at random.

    Args:
        class_images: (groups, classes) images in each group that contain the class.
        sizes: (groups,) images in each group.
        fractions: fraction of the images on each side, with the sum 1.
        random: source of the order, and of the choice between equal needs.

    Returns:
        (groups,) index of the side of each group
    """
    sides = np.full(len(sizes), -1)
    need = np.asarray(fractions) * sizes.sum()
    class_need = np.outer(fractions, class_images.sum(0))
    while (left := (class_images[sides < 0] > 0).sum(0)).any():
        rarest = int(random.choice(np.flatnonzero(left == left[left > 0].min())))
        groups = random.permutation(np.flatnonzero((sides < 0) & (class_images[:, rarest] > 0)))
        for group in groups[np.argsort(-class_images[groups, rarest], kind="stable")]:
            best = np.flatnonzero(class_need[:, rarest] >= class_need[:, rarest].max() - TIE)
            best = best[need[best] >= need[best].max() - TIE]
            side = int(random.choice(best))
            sides[group] = side
            class_need[side] -= class_images[group]
            need[side] -= sizes[group]
    _fill(sides, sizes, need, random)
    return sides


def _fill(sides: np.ndarray, sizes: np.ndarray, need: np.ndarray, random: np.random.Generator) -> None:
    """Assign the groups without a side in place.

    Args:
        sides: (groups,) index of the side of each group, -1 where there is none.
        sizes: (groups,) images in each group.
        need: (sides,) images that each side still needs. It is reduced.
        random: source of the order.
    """
    groups = random.permutation(np.flatnonzero(sides < 0))
    for group in groups[np.argsort(-sizes[groups], kind="stable")]:
        side = int(need.argmax())
        sides[group] = side
        need[side] -= sizes[group]
