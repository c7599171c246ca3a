"""Predictions in the form of the Cityscapes and VOC servers."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from segzoo.class_names import CITYSCAPES_LABEL_IDS, VOC_CLASSES
from segzoo.data.dataset_info import unknown_class_error
from segzoo.io import write_atomically
from segzoo.registry import ConfigError
from segzoo.types import DatasetInfo, PlainDict
from segzoo.visualization.label_png import write_label_png
from segzoo.visualization.palette import Color, voc_palette

LabelFormat = Literal["index", "color", "cityscapes", "voc"]
VOC_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"  # comp6: trained on any data; comp5: on VOC's alone
NAMES = {"cityscapes": re.compile(r"[a-z-]+_\d{6}_\d{6}(_.*)?"), "voc": re.compile(r"\d{4}_\d{6}")}
EXAMPLES = {"cityscapes": "berlin_000000_000019_leftImg8bit", "voc": "2008_000006"}


@dataclass(frozen=True)
class Submission:
    """Form of the label maps for a test server.

    Attributes:
        format: the server.
        values: (K,) value in the file of each class.
        palette: colors of the values. None writes grayscale.
    """

    format: Literal["cityscapes", "voc"]
    values: np.ndarray
    palette: tuple[Color, ...] | None

    def write_label(self, path: Path, label: np.ndarray) -> None:
        """Write (H, W) class ids as a PNG of the server's values."""
        write_label_png(path, self.values[label], self.palette)

    def pack(self, output_dir: Path, labels: Sequence[Path], skipped: Sequence[str]) -> PlainDict:
        """Pack label maps into the archive to upload.

        Args:
            output_dir: directory of the results. The archive is ``submission.zip`` in it for Cityscapes, and ``submission.tgz`` for VOC.
            labels: the label maps, in ``labels`` of that directory.
            skipped: sentences on files that were left out.

        Returns:
            The path of the ``submission``, and ``skipped`` with a remark on names that the server does not know.
        """
        path = output_dir / ("submission.zip" if self.format == "cityscapes" else "submission.tgz")
        names = {label: label.relative_to(output_dir / "labels").as_posix() for label in labels}
        write_atomically(path, lambda file: (_zip if self.format == "cityscapes" else _tar)(file, names))
        unknown = [label.stem for label in labels if not NAMES[self.format].fullmatch(label.stem)]
        note = f"{len(unknown)} images are not named as the server of {self.format} expects ({EXAMPLES[self.format]}), such as "
        return {"submission": str(path), "skipped": [*skipped, *([f"{note}{unknown[0]!r}."] if unknown else [])]}


def make_submission(info: DatasetInfo, format: LabelFormat) -> Submission | None:
    """Choose the form of the label maps by name.

    Args:
        info: classes of the model.
        format: ``index``: class ids in the colors of the data set, and ``color``: these colors as RGB (None is returned);
            ``cityscapes``: labelIds in grayscale; ``voc``: VOC's class ids in its colors.

    Raises:
        ConfigError: the model has classes that the server does not know.
    """
    if format in ("index", "color"):
        return None
    known = CITYSCAPES_LABEL_IDS if format == "cityscapes" else {name: number for number, name in enumerate(VOC_CLASSES)}
    if unknown := [name for name in info.classes if name not in known]:
        raise ConfigError(f"format={format}: the class {unknown_class_error(unknown[0], tuple(known))} Set format=index.")
    values = np.array([known[name] for name in info.classes], np.uint8)
    return Submission(format, values, None if format == "cityscapes" else voc_palette(256))


def _zip(file: BinaryIO, names: Mapping[Path, str]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for path, name in names.items():
            archive.write(path, name)


def _tar(file: BinaryIO, names: Mapping[Path, str]) -> None:
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for path, name in names.items():
            data = path.read_bytes()
            entry = tarfile.TarInfo(f"{VOC_FOLDER}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
