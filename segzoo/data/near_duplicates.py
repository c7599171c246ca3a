"""Images that look the same, found by small thumbnails.

Two images are near duplicates if the difference hashes of their thumbnails (256 bits: whether a pixel is brighter than its left neighbor)
differ in at most a tenth of the bits, and the gray values of the thumbnails correlate. This finds copies that were compressed again, resized,
brightened or blurred. Copies that were flipped, turned or cropped by more than about 2 % are not found.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SIDE = 16  # rows of a thumbnail, which has one column more
MAX_BITS = 26  # of 256 that may differ; unrelated images differ in about 128
MIN_CORRELATION = 0.985
MIN_CONTRAST = 1.0  # standard deviation in gray levels; flatter images are never near duplicates
BLOCK = 1 << 21  # comparisons at a time: 64 MB


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Shrink an image to the thumbnail that is compared.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (16, 17) uint8 gray values.
    """
    import cv2

    small = cv2.resize(image, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def near_duplicate_groups(thumbnails: np.ndarray) -> list[list[int]]:
    """Group images that are near duplicates, directly or through others.

    Takes about a second for 10,000 images.

    Args:
        thumbnails: (N, 16, 17) uint8, as ``thumbnail`` returns them.

    Returns:
        Indices of each group of two or more images, in ascending order.
    """
    group_of = np.arange(len(thumbnails))
    for start, matches in _compare(thumbnails, thumbnails):
        for row, found in enumerate(matches, start):
            found[row] = True  # also where the contrast is too low
            joined = np.unique(group_of[found])
            if len(joined) > 1:
                group_of[np.isin(group_of, joined)] = joined[0]
    order = np.argsort(group_of, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group_of[order])) + 1)
    return [group.tolist() for group in groups if len(group) > 1]


def nearest_duplicates(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Find a near duplicate of each image in another set.

    Args:
        queries: thumbnails (N, 16, 17) uint8.
        references: thumbnails (M, 16, 17) uint8.

    Returns:
        (N,) indices of a near duplicate among the references, -1 where there is none.
    """
    nearest = np.full(len(queries), -1)
    for start, matches in _compare(queries, references) if len(references) else ():
        nearest[start : start + len(matches)] = np.where(matches.any(axis=1), matches.argmax(axis=1), -1)
    return nearest


def _compare(queries: np.ndarray, references: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row of each block, and whether its images match: (rows, M) bool."""
    hashes, others = _hashes(queries), _hashes(references)
    vectors, other_vectors = _unit_vectors(queries), _unit_vectors(references)
    rows = max(1, BLOCK // max(1, len(references)))
    for start in range(0, len(queries), rows):
        block = slice(start, start + rows)
        differing = np.bitwise_count(hashes[block, None] ^ others[None]).sum(axis=2, dtype=np.uint16)
        yield start, (differing <= MAX_BITS) & (vectors[block] @ other_vectors.T >= MIN_CORRELATION)


def _hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Difference hashes: (N, 4) uint64."""
    bits = thumbnails[:, :, 1:] > thumbnails[:, :, :-1]
    return np.packbits(bits.reshape(-1, SIDE * SIDE), axis=1).view(np.uint64)


def _unit_vectors(thumbnails: np.ndarray) -> np.ndarray:
    """Centered gray values of length 1: (N, 272) float32; all 0 without contrast."""
    vectors = thumbnails.reshape(-1, SIDE * (SIDE + 1)).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    has_contrast = lengths > MIN_CONTRAST * np.sqrt(vectors.shape[1])
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=has_contrast)
