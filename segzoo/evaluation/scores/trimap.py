"""Scores in narrow bands around the boundaries of the ground truth.

Kohli et al., IJCV 2009, sec. 5; Chen et al., DeepLab, arXiv:1606.00915, fig. 10.
"""

from __future__ import annotations

import numpy as np

from segzoo.evaluation.bootstrap import mean_iou
from segzoo.evaluation.metrics import COUNTS
from segzoo.evaluation.scores._base import ScoredImage, ScoreResult
from segzoo.evaluation.scores._contours import contour, distance_to


class Trimap:
    """mIoU and pixel accuracy within bands around boundaries.

    The band of width w holds the pixels less than w pixels from the nearest pixel that has a 4-neighbor of another label. Ignored regions
    have boundaries too, as the void label in DeepLab's figure, but their pixels are not counted.

    Args:
        num_classes: number of classes K.
        ignore: the train id of ignored pixels.
        widths: widths of the bands in pixels, increasing.

    Attributes:
        counts: int64 (W, 3, K), rows as in ``COUNTS``, of the pixels in each band but not in a narrower one.
    """

    name = "trimap"

    def __init__(self, num_classes: int, ignore: int, widths: tuple[int, ...]):
        self.ignore, self.widths = ignore, widths
        self.counts = np.zeros((len(widths), len(COUNTS), num_classes), np.int64)

    def update(self, image: ScoredImage) -> None:
        distance = distance_to(contour(image.label))
        counted = (distance < self.widths[-1]) & (image.label != self.ignore)
        bands = np.digitize(distance[counted], self.widths)
        label, pred = image.label[counted].astype(np.int64), image.pred[counted].astype(np.int64)
        hit = label == pred
        for row, (band, classes) in enumerate([(bands[hit], label[hit]), (bands, label), (bands, pred)]):
            self.counts[:, row] += self._count(band, classes)

    def merge(self, other: Trimap) -> None:
        self.counts += other.counts

    def result(self) -> ScoreResult:
        """Compute the scores within each band.

        Returns:
            ``curve``, one entry per width with ``width``, ``miou`` over the classes labeled in the band, ``acc`` and ``pixels``. The scores
            are None in an empty band. The table is ``trimap.csv``.
        """
        within = self.counts.cumsum(0)
        hits, labeled = within[:, :2].sum(2).T
        curve = [
            {
                "width": width,
                "miou": float(mean_iou(within[i])) if labeled[i] else None,
                "acc": float(hits[i] / labeled[i]) if labeled[i] else None,
                "pixels": int(labeled[i]),
            }
            for i, width in enumerate(self.widths)
        ]
        points = [f"{100 * point['miou']:.2f} at {point['width']}" for point in curve if point["miou"] is not None]
        line = f"mIoU around boundaries by width in pixels: {', '.join(points) or 'there are no boundaries'}"
        return ScoreResult({"curve": curve}, {"trimap.csv": [list(curve[0]), *(list(point.values()) for point in curve)]}, [line])

    def _count(self, bands: np.ndarray, classes: np.ndarray) -> np.ndarray:
        shape = self.counts.shape[0], self.counts.shape[2]
        return np.bincount(bands * shape[1] + classes, minlength=shape[0] * shape[1]).reshape(shape)
