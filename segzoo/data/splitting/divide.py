"""Division of images into sides, by any method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from segzoo.data.splitting.assignment import Method, assign_at_random, assign_by_hash, assign_stratified
from segzoo.data.splitting.side_report import Side
from segzoo.messages import printable
from segzoo.types import DataError

TOLERANCE = 0.05  # difference of the fraction of a side that is not mentioned


def divide(
    stems: Sequence[str],
    groups: Sequence[str],
    class_counts: np.ndarray,
    fractions: Mapping[str, float],
    method: Method = "stratified",
    seed: int = 0,
) -> dict[str, Side]:
    """Divide images so that no group is on two sides.

    The result depends on the seed and on the images, but not on their order.

    Args:
        stems: stems of the images.
        groups: name of the group of each image.
        class_counts: (images, classes) labeled pixels of each class in each image.
        fractions: name of each side -> its fraction of the images, above 0. The sum is 1.
        method: ``stratified``, ``random`` or ``hash``, see ``assignment``.
        seed: of the random choices; ``hash`` has none.

    Returns:
        The sides. Their images are in the given order.

    Raises:
        DataError: a side would be empty.
    """
    names, group_of = np.unique(np.array(groups), return_inverse=True)
    sizes = np.bincount(group_of)
    shares, random = list(fractions.values()), np.random.default_rng(seed)
    if method == "hash":
        side_of = assign_by_hash(names.tolist(), shares)
    elif method == "random":
        side_of = assign_at_random(sizes, shares, random)
    else:
        class_images = np.zeros((len(names), class_counts.shape[1]), np.int64)
        np.add.at(class_images, group_of, class_counts > 0)
        side_of = assign_stratified(class_images, sizes, shares, random)
    members = [np.flatnonzero(side_of[group_of] == index).tolist() for index in range(len(shares))]
    if empty := [side for side, own in zip(fractions, members, strict=True) if not own]:
        raise DataError(
            f"{' and '.join(empty)} would be empty: {len(stems)} images in {len(names)} groups, the largest with {sizes.max()}, are divided "
            f"into {', '.join(f'{side} {share:.1%}' for side, share in fractions.items())}. Groups are images that action.group_by "
            "names alike or that look the same (action.near_duplicates). Use fewer or larger sides, or smaller groups."
        )
    return {
        side: Side([stems[index] for index in own], [groups[index] for index in own], class_counts[own])
        for side, own in zip(fractions, members, strict=True)
    }


def size_notes(sides: Mapping[str, Side], fractions: Mapping[str, float]) -> Iterator[str]:
    """Remarks on sides that are larger or smaller than requested."""
    total = sum(len(side.stems) for side in sides.values())
    groups = [group for side in sides.values() for group in side.groups]
    names, sizes = np.unique(np.array(groups), return_counts=True)
    largest = f"the largest, {printable(names[sizes.argmax()])!r}, has {sizes.max()} of {total} images"
    for name, side in sides.items():
        share = len(side.stems) / total
        if abs(share - fractions[name]) > TOLERANCE:
            yield f"{name} has {share:.1%} of the images instead of {fractions[name]:.1%}: groups are never divided, and {largest}."
