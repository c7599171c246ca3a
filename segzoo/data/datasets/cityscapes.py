"""Cityscapes as its archives unpack: ``leftImg8bit`` and ``gtFine``, labels as labelIds or labelTrainIds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from segzoo.data.dataset_info import MEAN, STD, Color, LabelMap, dataset_info_errors, make_dataset_info
from segzoo.data.file_index import FileIndex, FilePair
from segzoo.data.masks import IndexMasks
from segzoo.data.paired_dataset import PairedDataset
from segzoo.data.splits import Split
from segzoo.registry import DATA, ConfigError, Range

IMAGES = "leftImg8bit/{split}/{stem}_leftImg8bit.png"
LABELS = "gtFine/{split}/{stem}_gtFine_%s.png"


@DATA.register
def cityscapes(
    split: Split,
    *,
    root: str,
    classes: tuple[str, ...],
    palette: tuple[Color, ...],
    label_map: LabelMap,
    labels: Literal["auto", "labelIds", "labelTrainIds"] = "auto",
    mean: Annotated[tuple[float, float, float], Range(0, 255)] = MEAN,
    std: Annotated[tuple[float, float, float], Range(0, 255, above=True)] = STD,
) -> PairedDataset:
    """Cityscapes, fine annotations (Cordts et al., CVPR 2016, arXiv:1604.01685).

    Args:
        split: train or val.
        root: the folder that holds ``leftImg8bit`` and ``gtFine``.
        classes: class names; position is the train id.
        palette: one RGB triple a class.
        label_map: the complete table labelId -> train id; also turns predictions back into labelIds for the test server.
        labels: which files to read. auto takes ``*_labelTrainIds.png`` if the split holds any, else ``*_labelIds.png``.
        mean, std: RGB statistics on the 0..255 scale.

    Raises:
        ConfigError: settings that cannot work.
        DataError: at first use, files that are missing or wrong; also a file whose values are not what its name says.
    """
    faults = dataset_info_errors(classes, palette, label_map)
    if split not in ("train", "val"):
        faults.append(f"the split is 'train' or 'val', not {split!r}: the labels of Cityscapes' test set are not public.")
    if faults:
        raise ConfigError(faults)
    info = make_dataset_info("cityscapes", classes, palette, mean, std, label_map)
    return PairedDataset(info, CityscapesIndex(root, split, labels), CityscapesMasks(len(classes), label_map))


@dataclass(frozen=True)
class CityscapesIndex:
    """Lists the pairs of one split, the kind of label file decided once for all of it."""

    root: str
    split: Split
    labels: Literal["auto", "labelIds", "labelTrainIds"]

    def __call__(self) -> list[FilePair]:
        kind = self.labels
        if kind == "auto":
            made = Path(self.root).expanduser().glob(f"gtFine/{self.split}/*/*_gtFine_labelTrainIds.png")
            kind = "labelTrainIds" if any(made) else "labelIds"
        remedy = "Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into data.root."
        return FileIndex(self.root, self.split, IMAGES, LABELS % kind, hint=remedy)()


class CityscapesMasks:
    """Reads either kind of label file, told apart by its name and held to it by its values."""

    def __init__(self, num_classes: int, label_map: dict[int, int]):
        self._train_ids = IndexMasks(
            num_classes,
            remedy="The file is named labelTrainIds, so these look like labelIds saved under the wrong name: make it again with "
            "createTrainIdLabelImgs of cityscapesscripts, or read the *_labelIds.png files with data.labels=labelIds.",
        )
        self._label_ids = IndexMasks(
            num_classes,
            label_map,
            remedy="The file is named labelIds, whose values go from 0 to 33; with 255 in it, it looks like train ids saved under the "
            "wrong name: unpack gtFine again, or rename the files to *_labelTrainIds.png.",
        )

    def __call__(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        masks = self._train_ids if path.name.lower().endswith("_labeltrainids.png") else self._label_ids
        return masks(path, size)
