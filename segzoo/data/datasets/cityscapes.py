"""Cityscapes in the folder layout of its archives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from segzoo.data.checks.label_survey import LabelReader
from segzoo.data.dataset_info import ClassNames, LabelMap, Palette, dataset_info_errors, make_dataset_info
from segzoo.data.datasets._splits import AllSplits
from segzoo.data.file_index import FileIndex, FilePair
from segzoo.data.masks import IndexMasks, LabelOrientation
from segzoo.data.paired_dataset import CacheMode, PairedDataset
from segzoo.data.splits import SplitOrAll
from segzoo.pixel_format import MEAN, STD
from segzoo.registry import DATA, ConfigError, Range

IMAGES = "leftImg8bit/{split}/{stem}_leftImg8bit.png"
LABELS = "{0}/{{split}}/{{stem}}_{0}_{1}.png"  # annotation and kind of labels
HOMEPAGE = "https://www.cityscapes-dataset.com/downloads"
Annotation = Literal["gtFine", "gtCoarse"]


@DATA.register
def cityscapes(
    split: SplitOrAll,
    *,
    root: str,
    classes: ClassNames,
    palette: Palette,
    label_map: LabelMap,
    labels: Literal["auto", "labelIds", "labelTrainIds"] = "auto",
    train_on: Literal["fine", "coarse", "both"] = "fine",
    label_orientation: LabelOrientation | None = None,
    cache: CacheMode = "none",
    mean: Annotated[tuple[float, float, float], Range(0, 255)] = MEAN,
    std: Annotated[tuple[float, float, float], Range(0, 255, above=True)] = STD,
) -> PairedDataset:
    """Cityscapes (Cordts et al., CVPR 2016, arXiv:1604.01685).

    Args:
        split: train, val, test, or all: train and val. The label files of test are placeholders.
        root: folder that contains ``leftImg8bit``, ``gtFine`` and, for coarse annotations, ``gtCoarse``.
        classes: class names; position is the train id.
        palette: one RGB triple per class.
        label_map: complete table labelId -> train id. It also converts predictions back to labelIds for the test server.
        labels: which label files to read. ``auto`` reads ``*_labelTrainIds.png`` if the split has any, else ``*_labelIds.png``.
        train_on: images of the split train: ``fine``: 2975 of train, ``coarse``: 19,998 of train_extra with polygons drawn in minutes,
            or both.
        label_orientation: as for the data set ``folder``. The images of Cityscapes carry no orientation.
        cache: as for the data set ``folder``.
        mean, std: RGB statistics on the 0..255 scale.

    Raises:
        ConfigError: the settings are invalid.
        DataError: at first use: files are missing or invalid, or the values in a file contradict its name.
    """
    errors = dataset_info_errors(classes, palette, label_map)
    if errors:
        raise ConfigError(errors)
    info = make_dataset_info("cityscapes", classes, palette, mean, std, label_map)
    fine, coarse = CityscapesIndex(root, "train", labels), CityscapesIndex(root, "train_extra", labels, "gtCoarse")
    train = {"fine": fine, "coarse": coarse, "both": AllSplits((fine, coarse), complete=True)}[train_on]
    val = CityscapesIndex(root, "val", labels)
    index = {"train": train, "val": val, "all": AllSplits((train, val))}.get(split) or CityscapesIndex(root, split, labels)
    return PairedDataset(info, index, CityscapesMasks(len(classes), label_map, label_orientation), cache)


@dataclass(frozen=True)
class CityscapesIndex:
    """File pairs of one split, all with one kind of label file."""

    root: str
    split: str
    labels: Literal["auto", "labelIds", "labelTrainIds"]
    annotation: Annotation = "gtFine"

    def exists(self) -> bool:
        """Return true if the folder of the split exists."""
        return self._files("labelIds").exists()

    def check_location(self) -> None:
        """Raise DataError if the root does not exist."""
        self._files("labelIds").check_location()

    def __call__(self) -> list[FilePair]:
        kind = self.labels
        if kind == "auto":
            train_ids = Path(self.root).expanduser().glob(f"{self.annotation}/{self.split}/*/*_labelTrainIds.png")
            kind = "labelTrainIds" if any(train_ids) else "labelIds"
        return self._files(kind)()

    def _files(self, kind: str) -> FileIndex:
        names = {"gtFine": ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")}
        images, labels = names.get(self.annotation, ("leftImg8bit_trainextra.zip", "gtCoarse.zip"))
        patterns = IMAGES, LABELS.format(self.annotation, kind)
        hint = f"Unpack {images} and {labels} into data.root."
        return FileIndex(self.root, self.split, *patterns, missing_files_hint=hint, homepage=HOMEPAGE)


class CityscapesMasks(LabelReader):
    """Reader of both kinds of label files.

    The file name decides how the values are read, and values that contradict it are an error.
    """

    def __init__(self, num_classes: int, label_map: dict[int, int], label_orientation: LabelOrientation | None = None):
        self.survey_key = f"cityscapes {num_classes} {label_map} {label_orientation}"
        self._train_ids = IndexMasks(
            num_classes,
            hint="The file is named labelTrainIds, so these look like labelIds saved under the wrong name: create it again with "
            "createTrainIdLabelImgs of cityscapesscripts, or read the *_labelIds.png files with data.labels=labelIds.",
            label_orientation=label_orientation,
        )
        self._label_ids = IndexMasks(
            num_classes,
            label_map,
            hint="The file is named labelIds, whose values range from 0 to 33. Other values suggest train ids saved under the "
            "wrong name: unpack gtFine again, or rename the files to *_labelTrainIds.png.",
            label_orientation=label_orientation,
        )

    def __call__(self, path: Path, size: tuple[int, int], orientation: int = 1) -> np.ndarray:
        masks = self._train_ids if path.name.lower().endswith("_labeltrainids.png") else self._label_ids
        return masks(path, size, orientation)
