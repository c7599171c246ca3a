"""F-measure of boundaries, whatever classes they separate.

Martin et al., PAMI 2004 (BSDS); Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013.
"""

from __future__ import annotations

import numpy as np

from segzoo.evaluation.scores._base import ScoredImage, ScoreResult
from segzoo.evaluation.scores._contours import contour, diagonal_fraction, distance_to


class BoundaryF:
    """Precision, recall and F of predicted boundary pixels.

    A boundary pixel has a 4-neighbor of another class. It is matched if the other map has a boundary pixel within ``tolerance`` times the
    image diagonal. As in Csurka et al., pixels are not assigned one to one, which BSDS does. Boundary pixels that close to an ignored one
    are left out, because their counterpart may be hidden there.

    Args:
        ignore: the train id of ignored pixels.
        tolerance: the distance as a fraction of the image diagonal.

    Attributes:
        counts: for each image its matched and all predicted, its matched and all labeled boundary pixels.
    """

    name = "boundary_f"

    def __init__(self, ignore: int, tolerance: float):
        self.ignore, self.tolerance = ignore, tolerance
        self.counts: dict[int, tuple[int, int, int, int]] = {}

    def update(self, image: ScoredImage) -> None:
        radius = diagonal_fraction(image.label.shape, self.tolerance)
        to_ignored = distance_to(image.label == self.ignore)
        predicted, labeled = (contour(labels) & (to_ignored > 1) for labels in (image.pred, image.label))
        near = distance_to(labeled) <= radius, distance_to(predicted) <= radius
        predicted, labeled = (marked & (to_ignored > radius) for marked in (predicted, labeled))
        matched = predicted & near[0], labeled & near[1]
        sums = (int(pixels.sum()) for pixels in (matched[0], predicted, matched[1], labeled))
        self.counts[image.index] = tuple(sums)  # type: ignore[assignment]

    def merge(self, other: BoundaryF) -> None:
        self.counts |= other.counts

    def result(self) -> ScoreResult:
        """Compute the F-measure of the boundary pixels.

        Returns:
            ``f``, ``precision`` and ``recall`` of the pixels of all images, ``f_per_image``, the mean F of the images that have a boundary
            in either map, and ``tolerance``. Scores without a pixel to count are None.
        """
        counts = np.array([self.counts[index] for index in sorted(self.counts)], np.int64).reshape(-1, 4)
        precision, recall, f = _f_measure(*counts.sum(0).tolist())
        each = [_f_measure(*row)[2] for row in counts.tolist() if row[1] + row[3]]
        mean = float(np.mean([value or 0.0 for value in each])) if each else None
        values = {"f": f, "precision": precision, "recall": recall, "f_per_image": mean, "tolerance": self.tolerance}
        line = "no boundary F: there are no boundaries" if f is None else f"boundary F {100 * f:.2f} (class-agnostic)"
        return ScoreResult(values, {}, [line])


def _f_measure(hits: int, predicted: int, found: int, labeled: int) -> tuple[float | None, float | None, float | None]:
    """Compute precision, recall and F, None without pixels.

    F is 0 if only one of the maps has a boundary.
    """
    precision, recall = hits / predicted if predicted else None, found / labeled if labeled else None
    if precision is None and recall is None:
        return None, None, None
    total = (precision or 0.0) + (recall or 0.0)
    return precision, recall, 2 * (precision or 0.0) * (recall or 0.0) / total if total else 0.0
