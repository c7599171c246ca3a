"""Images that look the same, found by small thumbnails.

Two images are near duplicates if the difference hashes of their thumbnails (whether a pixel is brighter than its left neighbor) differ in at
most a tenth of the bits, and their gray values correlate. If an image has many such matches, they probably come from a fixed camera. What they
have in common is then subtracted, and the rest has to correlate as well, so that only images of the same object match.

This finds copies that were compressed again, resized, blurred or brightened, the last not with a fixed camera. Copies that were flipped, turned
or cropped are not found.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SIDE = 48  # rows and columns of a thumbnail
COARSE = 16  # the same, averaged for the hash
MAX_BITS = 24  # of 16 * 15 that may differ; unrelated images differ in about 120
MIN_CORRELATION = 0.985
MANY = 8  # matches of an image from which on a fixed camera is assumed
MIN_REST = 0.7  # correlation of what remains without the common part
MIN_CONTRAST = 1.0  # standard deviation in gray levels; flatter images are never near duplicates
BLOCK = 1 << 21  # comparisons at a time: 64 MB


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Reduce an image to the thumbnail that is compared.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (48, 48) uint8 gray values.
    """
    import cv2

    return cv2.cvtColor(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)


def near_duplicate_groups(thumbnails: np.ndarray) -> list[list[int]]:
    """Group images that are near duplicates, directly or through others.

    Takes a few seconds for 10,000 images, or some minutes if all are from one fixed camera.

    Args:
        thumbnails: (N, 48, 48) uint8, as ``thumbnail`` returns them.

    Returns:
        Indices of each group of two or more images, in ascending order.
    """
    group_of = np.arange(len(thumbnails))
    for row, matches in _matches(thumbnails, thumbnails):
        joined = np.unique(group_of[np.append(matches, row)])
        if len(joined) > 1:
            group_of[np.isin(group_of, joined)] = joined[0]
    order = np.argsort(group_of, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group_of[order])) + 1)
    return [group.tolist() for group in groups if len(group) > 1]


def nearest_duplicates(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Find a near duplicate of each image in another set.

    Args:
        queries: thumbnails (N, 48, 48) uint8.
        references: thumbnails (M, 48, 48) uint8.

    Returns:
        (N,) indices of the most similar near duplicate among the references, -1 where there is none.
    """
    nearest = np.full(len(queries), -1)
    for row, matches in _matches(queries, references) if len(references) else ():
        nearest[row] = matches[0]
    return nearest


def _matches(queries: np.ndarray, references: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each query with near duplicates and these, the most similar first."""
    coarse, others = _coarse(queries), _coarse(references)
    hashes, other_hashes = _hashes(coarse), _hashes(others)
    vectors, other_vectors = _unit_vectors(coarse, MIN_CONTRAST), _unit_vectors(others, MIN_CONTRAST)
    rows = max(1, BLOCK // max(1, len(references)))
    for start in range(0, len(queries), rows):
        block = slice(start, start + rows)
        differing = np.bitwise_count(hashes[block, None] ^ other_hashes[None]).sum(axis=2, dtype=np.uint16)
        alike = (differing <= MAX_BITS) & (vectors[block] @ other_vectors.T >= MIN_CORRELATION)
        for row in np.flatnonzero(alike.any(axis=1)):
            found = np.flatnonzero(alike[row])
            similarity = _similarity(queries[start + row], references[found])
            found = found[np.argsort(-similarity, kind="stable")][: np.count_nonzero(similarity >= MIN_REST)]
            if len(found):
                yield start + int(row), found


def _similarity(query: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Correlation of a thumbnail with similar ones, without their common part."""
    vectors = _unit_vectors(np.concatenate([query[None], references]))
    if len(references) >= MANY:
        vectors -= vectors[1:].mean(axis=0)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-6)
    return vectors[1:] @ vectors[0]


def _coarse(thumbnails: np.ndarray) -> np.ndarray:
    """Average blocks of pixels: (N, 48, 48) -> (N, 16, 16) float32."""
    blocks = thumbnails.reshape(-1, COARSE, SIDE // COARSE, COARSE, SIDE // COARSE)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _hashes(coarse: np.ndarray) -> np.ndarray:
    """Difference hashes (N, 4) uint64, of which 16 bits are 0."""
    bits = np.zeros((len(coarse), COARSE, COARSE), bool)
    bits[:, :, 1:] = coarse[:, :, 1:] > coarse[:, :, :-1]
    return np.packbits(bits.reshape(-1, COARSE**2), axis=1).view(np.uint64)


def _unit_vectors(gray: np.ndarray, min_contrast: float = 0.0) -> np.ndarray:
    """Centered gray values (N, pixels) of length 1, or 0 without contrast."""
    vectors = gray.reshape(-1, gray.shape[1] * gray.shape[2]).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    has_contrast = lengths > min_contrast * np.sqrt(vectors.shape[1])
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=has_contrast)
