"""Boundary scores against their definitions, written out plainly."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scored_maps import NAMES, blocks, fed, scored

from segzoo.evaluation.scores._contours import contour
from segzoo.evaluation.scores.boundary_f import BoundaryF
from segzoo.evaluation.scores.boundary_iou import BoundaryIoU
from segzoo.evaluation.scores.trimap import Trimap


def mask_to_boundary(mask, dilation_ratio):
    """The authors' code, github.com/bowenc0221/boundary-iou-api."""
    h, w = mask.shape
    dilation = max(1, int(round(dilation_ratio * np.sqrt(h**2 + w**2))))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)  # type: ignore[call-overload]
    return mask - cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=dilation)[1 : h + 1, 1 : w + 1]


def authors_boundary_iou(gt, dt, dilation_ratio):
    gt, dt = (mask_to_boundary(mask.astype(np.uint8), dilation_ratio) for mask in (gt, dt))
    return ((gt * dt) > 0).sum(), ((gt + dt) > 0).sum()


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.07, 0.4])
def test_boundary_iou_equals_the_authors_code(ratio):
    pairs = [blocks(seed, (40 + 3 * seed, 61), ignored=True) for seed in range(4)]
    result = fed(BoundaryIoU(NAMES, 255, ratio), pairs).result()
    for k, name in enumerate(NAMES):
        both = [authors_boundary_iou(label == k, (pred == k) & (label != 255), ratio) for pred, label in pairs]
        shared, union = np.sum(both, axis=0)
        assert result.values["per_class"][name] == (None if name == "absent" else shared / union)
    present = [iou for iou in result.values["per_class"].values() if iou is not None]
    assert result.values["miou"] == pytest.approx(np.mean(present)) and len(present) == 3


def square(size, margin):
    labels = np.zeros((size, size), np.uint8)
    labels[margin : size - margin, margin : size - margin] = 1
    return labels


def boundary_iou(pred, label):
    return (
        fed(BoundaryIoU(("rest", "square"), 255, 2 / np.hypot(*label.shape)), [(pred, label)])
        .result()
        .values["per_class"]["square"]
    )


def test_boundary_iou_of_drawn_squares():
    label = square(40, 10)  # 20 x 20 pixels, its boundary is a ring of two pixels: 400 - 256 = 144
    assert boundary_iou(label, label) == 1
    assert boundary_iou(square(40, 12), label) == 0  # 16 x 16: IoU 0.64, but the rings do not meet
    # 18 x 18: a ring of 324 - 196 = 128, of which the outer half, 324 - 256 = 68, lies in the first
    assert boundary_iou(square(40, 11), label) == pytest.approx(68 / (144 + 128 - 68))
    hole = label.copy()
    hole[19:21, 19:21] = 0  # far inside: the IoU is 0.99, the boundary of the hole is 6 x 6 - 4 pixels
    assert boundary_iou(hole, label) == pytest.approx(144 / (144 + 32))
    assert boundary_iou(np.ones((6, 6), np.uint8), np.ones((6, 6), np.uint8)) == 1  # the image border is a boundary


def test_boundary_iou_of_many_classes_and_any_ignore_id():
    pred, label = (labels.astype(np.int32) for labels in blocks(1, (50, 60), ignored=True))
    narrow = fed(BoundaryIoU(NAMES, 255, 0.02), [(pred, label)]).counts
    names = tuple(map(str, range(300)))
    wide = fed(BoundaryIoU(names, -1, 0.02), [(pred + 256, np.where(label == 255, -1, label + 256))], ignore=-1).counts
    assert (wide[:, 256:260] == narrow).all() and wide.sum() == narrow.sum()


def test_trimap_equals_a_search_of_every_pair_of_pixels():
    widths, pairs = (1, 3, 6), [blocks(seed, (23, 31), ignored=True) for seed in range(3)]
    curve = fed(Trimap(4, 255, widths), pairs).result().values["curve"]
    for width, point in zip(widths, curve, strict=True):
        counts = np.zeros((3, 4))
        for pred, label in pairs:
            band = within(contour(label), width, strict=True) & (label != 255)
            for k in range(4):
                counts[:, k] += [((pred == k) & (label == k) & band).sum(), ((label == k) & band).sum(), ((pred == k) & band).sum()]
        hits, labeled, predicted = counts
        present = labeled > 0
        assert (
            point["width"] == width
            and point["pixels"] == labeled.sum()
            and point["acc"] == pytest.approx(hits.sum() / labeled.sum())
        )
        assert point["miou"] == pytest.approx((hits / np.maximum(labeled + predicted - hits, 1))[present].mean())


def within(marked, radius, strict=False):
    """Pixels close to a marked one, by comparing every pair."""
    rows, columns = np.nonzero(marked)
    grid = np.indices(marked.shape)
    squared = ((grid[:, :, :, None] - np.array([rows, columns])[:, None, None]) ** 2).sum(0)
    return (squared < radius**2 if strict else squared <= radius**2).any(-1)


def test_the_narrowest_band_is_the_boundary_itself():
    label = square(12, 4)
    curve = fed(Trimap(2, 255, (1, 100)), [(np.zeros_like(label), label)]).result().values["curve"]
    # 12 pixels inside and 16 outside of a square of 4 x 4 pixels
    assert curve[0] == {"width": 1, "pixels": 28, "acc": 16 / 28, "miou": pytest.approx(16 / 28 / 2)}
    assert curve[1] == {"width": 100, "pixels": 144, "acc": 128 / 144, "miou": pytest.approx(128 / 144 / 2)}
    flat = fed(Trimap(2, 255, (1, 2)), [(label, np.zeros_like(label))]).result()
    assert [point["miou"] for point in flat.values["curve"]] == [None, None] and flat.lines[0].endswith("there are no boundaries")


@pytest.mark.parametrize("tolerance", [0.0, 0.03, 0.1])
def test_boundary_f_equals_a_search_of_every_pair_of_pixels(tolerance):
    pairs = [blocks(seed, (23, 31), ignored=True) for seed in range(3)]
    totals = np.zeros(4)
    for pred, label in pairs:
        radius = tolerance * np.hypot(*label.shape)
        beside_ignored, hidden = within(label == 255, 1), within(label == 255, radius)
        predicted, labeled = (contour(np.where(label == 255, 255, labels)) & ~beside_ignored for labels in (pred, label))
        sides = ((predicted & ~hidden, labeled), (labeled & ~hidden, predicted))
        for side, (own, other) in enumerate(sides):
            totals[2 * side : 2 * side + 2] += (own & within(other, radius)).sum(), own.sum()
    values = fed(BoundaryF(255, tolerance), pairs).result().values
    precision, recall = totals[0] / totals[1], totals[2] / totals[3]
    assert values["precision"] == pytest.approx(precision) and values["recall"] == pytest.approx(recall)
    assert values["f"] == pytest.approx(2 * precision * recall / (precision + recall)) and 0 < values["f"] < 1


def test_boundary_f_ignores_which_classes_meet():
    label = square(60, 20)
    values = fed(BoundaryF(255, 0), [(2 - label, label)]).result().values
    assert values["f"] == values["f_per_image"] == 1
    shifted = np.roll(label, 1, axis=1)
    diagonal = np.hypot(60, 60)
    assert fed(BoundaryF(255, 1 / diagonal), [(shifted, label)]).result().values["f"] == 1
    assert fed(BoundaryF(255, 0.9 / diagonal), [(shifted, label)]).result().values["f"] < 1


def test_boundary_f_per_image_and_without_boundaries():
    label, flat = square(60, 20), np.zeros((60, 60), np.uint8)
    assert fed(BoundaryF(255, 0), [(flat, flat)]).result().values["f"] is None
    values = fed(BoundaryF(255, 0), [(label, label), (flat, label), (flat, flat)]).result().values
    assert values["f_per_image"] == 0.5 and values["precision"] == 1 and values["recall"] == 0.5
    assert fed(BoundaryF(255, 0), [(label, flat)]).result().values == {
        "f": 0.0, "precision": 0.0, "recall": None, "f_per_image": 0.0, "tolerance": 0
    }  # fmt: skip


@pytest.mark.parametrize(
    "build", [lambda: BoundaryIoU(NAMES, 255, 0.02), lambda: Trimap(4, 255, (1, 4)), lambda: BoundaryF(255, 0.01)]
)
def test_ranks_and_order_change_nothing(build):
    images = [scored(index, *blocks(index, ignored=True)) for index in range(6)]
    whole, first, second = build(), build(), build()
    for image in images:
        whole.update(image)
    for score, part in ((first, images[::-2]), (second, images[::2])):
        for image in part:
            score.update(image)
    first.merge(second)
    assert first.result() == whole.result()
