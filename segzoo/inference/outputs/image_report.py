"""Class shares, regions and verdict of one label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segzoo.data.inspection.blobs import Blobs, find_blobs
from segzoo.inference.outputs.rules import Rule
from segzoo.types import DatasetInfo

MAX_NAMED = 4  # classes in the sentence about an image


@dataclass(frozen=True)
class ImageReport:
    """Areas, regions and verdict of a label map.

    Attributes:
        info: the classes.
        hw: height and width in pixels.
        areas: (K,) pixels of each class.
        regions: train id -> regions, of the classes whose regions are listed. None if they were not searched.
        failures: the rules that it fails, such as ``scratch: 412 px``.
    """

    info: DatasetInfo
    hw: tuple[int, int]
    areas: np.ndarray
    regions: dict[int, Blobs | None]
    failures: list[str]

    def cells(self) -> list[object]:
        """Cells of the table, in the order of ``report_columns``."""
        pixels = self.hw[0] * self.hw[1]
        values: list[object] = [*self.hw, *(round(float(area) / pixels, 6) for area in self.areas)]
        for blobs in self.regions.values():
            if blobs is None:
                values += ["", "", ""]
                continue
            largest = int(blobs.areas.argmax()) if len(blobs.areas) else None
            area, box = (0, "") if largest is None else (int(blobs.areas[largest]), " ".join(map(str, blobs.boxes[largest])))
            values += [len(blobs.areas), area, box]
        return values

    def sentence(self) -> str:
        """Say in one line what the image shows, largest classes first."""
        pixels, parts = self.hw[0] * self.hw[1], []
        ids = [k for k in np.argsort(-self.areas, kind="stable").tolist() if self.areas[k] and k != self.info.background]
        for k in ids[:MAX_NAMED]:
            text = f"{self.info.classes[k]} {_two_digits(100 * float(self.areas[k]) / pixels)} %"
            if (blobs := self.regions.get(k)) is not None:
                count, best = len(blobs.areas), int(blobs.areas.argmax())
                left, top, width, height = blobs.boxes[best].tolist()
                text += f" in {count} region{'s' if count > 1 else ''} (largest {blobs.areas[best]} px, {width}x{height} at {left},{top})"
            parts.append(text)
        more = len(ids) - MAX_NAMED
        return (
            ", ".join([*parts, *([f"{more} more class{'es' if more > 1 else ''}"] if more > 0 else [])]) or "nothing but background"
        )


def report_columns(info: DatasetInfo, region_ids: Sequence[int]) -> list[str]:
    """Columns of the table, after those of the file."""
    per_region = [f"{column} {info.classes[k]}" for k in region_ids for column in ("regions", "largest px", "largest box")]
    return ["height", "width", *(f"share {name}" for name in info.classes), *per_region]


def report_image(label: np.ndarray, info: DatasetInfo, region_ids: Sequence[int], rules: Sequence[Rule]) -> ImageReport:
    """Measure a label map and apply the rules.

    Args:
        label: (H, W) train ids.
        info: the classes.
        region_ids: classes whose regions are listed.
        rules: the rules.
    """
    areas = np.bincount(label.ravel(), minlength=info.num_classes)[: info.num_classes]
    regions = {k: _blobs(label, k, int(areas[k])) for k in region_ids}
    values = []
    for rule in rules:
        k = info.classes.index(rule.name)
        if rule.unit == "%":
            values.append(_percent(areas, k))
        else:
            blobs = regions[k] if k in regions else _blobs(label, k, int(areas[k]))
            values.append(float(blobs.areas.max(initial=0)))
    return ImageReport(info, (label.shape[0], label.shape[1]), areas, {**regions}, _failures(rules, values))


def report_areas(
    areas: np.ndarray, hw: tuple[int, int], info: DatasetInfo, region_ids: Sequence[int], rules: Sequence[Rule]
) -> ImageReport:
    """Report an image of which only the areas are known.

    Args:
        areas: (K,) pixels of each class.
        hw: height and width in pixels.
        info, region_ids: as in ``report_image``.
        rules: rules of shares, which have the unit ``%``.
    """
    values = [_percent(areas, info.classes.index(rule.name)) for rule in rules]
    return ImageReport(info, hw, areas, dict.fromkeys(region_ids), _failures(rules, values))


def _two_digits(percent: float) -> str:
    return f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"


def _percent(areas: np.ndarray, train_id: int) -> float:
    return 100 * float(areas[train_id]) / float(areas.sum())


def _failures(rules: Sequence[Rule], values: Sequence[float]) -> list[str]:
    """Describe the rules whose limit is reached."""
    return [
        f"{rule.name}: {value:.6g} {rule.unit}" if rule.unit == "%" else f"{rule.name}: {value:.0f} {rule.unit}"
        for rule, value in zip(rules, values, strict=True)
        if value >= rule.limit
    ]


def _blobs(label: np.ndarray, train_id: int, area: int) -> Blobs:
    """Find the regions of a class that has some pixels."""
    if not area:
        return Blobs(np.zeros(label.shape, np.int32), np.zeros(0, np.int32), np.zeros((0, 4), np.int32))
    return find_blobs(label == train_id)
