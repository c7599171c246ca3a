"""Hashes of the images and labels that scores depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from segzoo.distributed import Distributed
from segzoo.evaluation.metrics import COUNTS
from segzoo.types import DataError, Dataset, PlainDict


def short_hash(content: bytes) -> str:
    """First digits of a SHA-256."""
    return hashlib.sha256(content).hexdigest()[:8]


def image_names(dataset: Dataset) -> tuple[str, ...]:
    """List the names of a data set's images, in order."""
    return tuple(dataset.name(index) for index in range(len(dataset)))


def hash_names(names: Sequence[str]) -> str:
    """Hash the names of images, in order."""
    return short_hash("\n".join(names).encode("utf-8", "surrogateescape"))


def data_fingerprint(data: str, names: tuple[str, ...], per_image_counts: np.ndarray) -> PlainDict:
    """Describe the images and labels that scores depend on.

    ``names`` is a hash of the images' names, which follow from the split and its list. ``ground_truth`` is a hash of the labeled pixels of
    each image and class, which follow from the label map.
    """
    return {
        "data": data,
        "images": len(names),
        "names": hash_names(names),
        "ground_truth": short_hash(per_image_counts[:, COUNTS.index("labeled")].astype("<i8").tobytes()),
    }


def check_equal_images(distributed: Distributed, *datasets: Dataset) -> None:
    """Require that every rank finds images of the same names.

    Each rank reads the images at its own positions, which have to be positions in the same list.

    Raises:
        DataError: the names or their order differ; on every rank.
    """
    if distributed.size == 1:
        return
    found = distributed.gather([(len(names), hash_names(names)) for names in map(image_names, datasets)])
    for rank, own in enumerate(found):
        for first, other in zip(found[0], own, strict=True):
            if first != other:
                numbers = f"rank 0 finds {first[0]}, rank {rank} finds {other[0]}"
                numbers += " of other names or in another order" if first[0] == other[0] else ""
                raise DataError(f"the processes find different images ({numbers}). Use equal copies of the data on every machine.")
