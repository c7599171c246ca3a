"""Optional scores by name."""

from __future__ import annotations

from typing import Annotated, Literal

from segzoo.data.dataset_info import unknown_class_error
from segzoo.evaluation.scores._base import ImageScore
from segzoo.evaluation.scores.blobs import Blobs
from segzoo.evaluation.scores.boundary_f import BoundaryF
from segzoo.evaluation.scores.boundary_iou import BoundaryIoU
from segzoo.evaluation.scores.calibration import Calibration
from segzoo.evaluation.scores.trimap import Trimap
from segzoo.registry import ConfigError, Range
from segzoo.types import DatasetInfo

ScoreName = Literal["boundary_iou", "trimap", "boundary_f", "calibration", "blobs"]


def build_scores(
    info: DatasetInfo,
    *,
    scores: tuple[ScoreName, ...] = (),
    boundary_ratio: Annotated[float, Range(0, 1, above=True)] = 0.02,
    trimap_widths: Annotated[tuple[int, ...], Range(1, 10000)] = (1, 2, 5, 10, 20, 40),
    boundary_tolerance: Annotated[float, Range(0, 1)] = 0.0075,
    calibration_bins: Annotated[int, Range(1, 1000)] = 15,
    defects: tuple[str, ...] | None = None,
    blob_overlaps: Annotated[tuple[float, ...], Range(0, 1, above=True)] = (0.1, 0.5),
    blob_pixels: Annotated[int, Range(1, 10**9)] = 1,
    blob_recall: Annotated[float, Range(0, 1, above=True)] = 0.95,
    blob_curve: bool = True,
) -> list[ImageScore]:
    """Build the scores that an evaluation computes besides those of pixels.

    The iIoU of Cityscapes is left out: it weights pixels by the size of their instance, and label maps have no instances.

    Args:
        info: the classes.
        scores: their names.
        boundary_ratio: for ``boundary_iou``, the width of the boundary as a fraction of the image diagonal.
        trimap_widths: for ``trimap``, widths of the bands in pixels.
        boundary_tolerance: for ``boundary_f``, the largest distance of matching pixels as a fraction of the image diagonal.
        calibration_bins: for ``calibration``, the number of bins.
        defects, blob_overlaps, blob_pixels, blob_recall, blob_curve: see ``Blobs``. ``defects`` are class names; None means every class but
            the background.

    Raises:
        ConfigError: a class does not exist, or none is a defect.
    """
    builders = {
        "boundary_iou": lambda: BoundaryIoU(info.classes, info.ignore, boundary_ratio),
        "trimap": lambda: Trimap(info.num_classes, info.ignore, tuple(sorted({*trimap_widths}))),
        "boundary_f": lambda: BoundaryF(info.ignore, boundary_tolerance),
        "calibration": lambda: Calibration(info.ignore, calibration_bins),
        "blobs": lambda: Blobs(
            info.classes,
            info.ignore,
            _defect_ids(info, defects),
            tuple(sorted({*blob_overlaps})),
            blob_pixels,
            blob_recall,
            blob_curve,
        ),
    }
    empty = [key for key, values in (("trimap_widths", trimap_widths), ("blob_overlaps", blob_overlaps)) if not values]
    if empty:
        raise ConfigError([f"{key} is empty; omit it for its default" for key in empty])
    return [builders[name]() for name in dict.fromkeys(scores)]


def _defect_ids(info: DatasetInfo, defects: tuple[str, ...] | None) -> tuple[int, ...]:
    if defects is None:
        if info.background is None:
            raise ConfigError(
                "scores=[blobs] needs the classes that reject an image, since no class is the background. "
                f"Set them, such as 'defects=[{info.classes[-1]}]'."
            )
        return tuple(k for k in range(info.num_classes) if k != info.background)
    if unknown := [name for name in defects if name not in info.classes]:
        raise ConfigError([f"defects: the class {unknown_class_error(name, info.classes)}" for name in unknown])
    if not defects:
        raise ConfigError("defects is empty; omit it for every class but the background")
    return tuple(sorted(info.classes.index(name) for name in {*defects}))
