"""Images that look the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from image_files import noise, smooth

from segzoo.data.near_duplicates import near_duplicate_groups, nearest_duplicates, thumbnail


def textured(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """Smooth random image with structure of all sizes."""
    random = np.random.default_rng(seed)
    layers = [cv2.resize(random.integers(0, 256, (n, n, 3), dtype=np.uint8), (width, height)) for n in (3, 6, 12, 24)]
    return np.mean(layers, axis=0).astype(np.uint8)


CHANGES = {
    "compressed": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [1, 40])[1], 1),
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "brighter": lambda image: (image * 1.2).clip(0, 255).astype(np.uint8),
    "blurred": lambda image: cv2.GaussianBlur(image, (5, 5), 0),
    "noisy": lambda image: (image + np.random.default_rng(0).normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8),
    "one object more": lambda image: cv2.circle(image.copy(), (80, 60), 3, (255, 255, 255), -1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_other_images_are_not(change):
    images = [textured(seed) for seed in range(12)]
    copies = [CHANGES[change](image) for image in images[::3]]
    first, second = (np.stack([thumbnail(image) for image in some]) for some in (images, copies))
    np.testing.assert_array_equal(nearest_duplicates(second, first), [0, 3, 6, 9])
    found = nearest_duplicates(first, second)
    np.testing.assert_array_equal(found, [index // 3 if index % 3 == 0 else -1 for index in range(12)])
    assert near_duplicate_groups(np.concatenate([first, second])) == [[0, 12], [3, 13], [6, 14], [9, 15]]


def test_with_a_fixed_camera_only_images_of_the_same_object_match():
    scene, random = textured(1), np.random.default_rng(0)

    def part(seed: int) -> np.ndarray:
        """The scene with scratches."""
        image, own = scene.copy(), np.random.default_rng(seed)
        for _ in range(4):
            start, end = own.integers(0, 120, (2, 2))
            image = cv2.line(image, start.tolist(), end.tolist(), (255, 255, 255), 2)
        return (image + random.normal(0, 2, image.shape)).clip(0, 255).astype(np.uint8)

    first = np.stack([thumbnail(part(seed)) for seed in range(20)])
    second = np.stack([thumbnail(CHANGES["compressed"](part(seed))) for seed in (30, 3, 31, 17)])
    assert near_duplicate_groups(first) == []
    np.testing.assert_array_equal(nearest_duplicates(second, first), [-1, 3, -1, 17])


def test_groups_join_through_their_members_in_blocks(monkeypatch):
    monkeypatch.setattr("segzoo.data.near_duplicates.BLOCK", 7)
    chain = [textured(1)]
    while nearest_duplicates(thumbnail(chain[-1])[None], thumbnail(chain[0])[None])[0] == 0:
        chain.append(cv2.circle(chain[-1].copy(), (len(chain) * 37 % 160, len(chain) * 23 % 120), 3, (90, 90, 90), -1))
    assert 3 < len(chain) < 8
    images = [textured(2), *chain, noise()]
    assert near_duplicate_groups(np.stack([thumbnail(image) for image in images])) == [list(range(1, len(chain) + 1))]


def test_images_without_contrast_are_no_near_duplicates():
    flat = [np.full((20, 30, 3), value, np.uint8) for value in (0, 0, 120)]
    thumbnails = np.stack([thumbnail(image) for image in [*flat, smooth()]])
    assert near_duplicate_groups(thumbnails) == []
    assert nearest_duplicates(thumbnails, thumbnails[:3]).tolist() == [-1] * 4
    assert near_duplicate_groups(thumbnails[:0]) == [] and nearest_duplicates(thumbnails, thumbnails[:0]).tolist() == [-1] * 4
