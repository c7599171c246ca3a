"""Predicted regions as drafts of labels, in LabelMe and COCO files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from segzoo.data.annotations.drafts import DraftImage, coco_record, labelme_record, relative_name
from segzoo.data.annotations.polygons import region_polygons
from segzoo.data.image_io import read_mask
from segzoo.io import write_json
from segzoo.types import DatasetInfo

PolygonFormat = Literal["none", "labelme", "coco"]


def write_labelme(path: Path, image: np.ndarray, label: np.ndarray, info: DatasetInfo, file: Path | None) -> None:
    """Write the regions of an image for LabelMe.

    Args:
        path: the file to write.
        image, label: (H, W, 3) uint8 and (H, W) train ids.
        info: the classes.
        file: the file of the image. The frame of a video has none and is embedded.
    """
    name = f"{path.stem}.png" if file is None else relative_name(file, path)
    draft = DraftImage(name, (label.shape[0], label.shape[1]), region_polygons(label, info))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, labelme_record(draft, _png(image) if file is None else None))


def write_coco(path: Path, images: Iterable[tuple[str, Path]], label_path: Callable[[str], Path], info: DatasetInfo) -> None:
    """Write the regions of all label maps to one COCO file.

    Args:
        path: the file to write.
        images: name and file of each image.
        label_path: returns the label map of a name.
        info: the classes.
    """
    drafts = []
    for name, file in images:
        label = read_mask(label_path(name))
        drafts.append(DraftImage(relative_name(file, path), (label.shape[0], label.shape[1]), region_polygons(label, info)))
    write_json(path, coco_record(drafts, info))


def _png(image: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
