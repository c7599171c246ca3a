"""Scores of label maps that other code has written as PNG files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from segzoo.data.image_io import read_mask
from segzoo.data.loader import eval_batches
from segzoo.device import Workers, pick_workers
from segzoo.evaluation.evaluator import Evaluation, ImageErrors
from segzoo.evaluation.fingerprint import data_fingerprint
from segzoo.evaluation.metrics import COUNTS, ConfusionMatrix
from segzoo.messages import printable
from segzoo.progress import with_progress
from segzoo.types import DataError, Dataset

FROM_FILES = {"predictions": "files", "precision": "unknown"}  # nothing is known of how they were made


def evaluate_label_files(folder: Path, dataset: Dataset, workers: Workers) -> Evaluation:
    """Score a folder of index PNGs, one for each image.

    The files hold train ids at the size of the labels. They are named as the images: ``<folder>/<name>.png``, where ``<name>`` is the
    image's name in the data set, or its last part if that is unique.

    Args:
        folder: the folder, or an output directory of ``tools/predict.py``.
        dataset: the labeled images.
        workers: processes that read the images' labels. ``auto`` means 2: there is no network that they compete with.

    Raises:
        DataError: images have no file, or a file is invalid.
    """
    names = tuple(dataset.name(index) for index in range(len(dataset)))
    files = find_label_files(folder, names)
    confusion = ConfusionMatrix(dataset.info.num_classes, dataset.info.ignore)
    counts, errors = np.zeros((len(names), len(COUNTS), dataset.info.num_classes), np.int64), ImageErrors()
    with closing(eval_batches(dataset, workers=pick_workers(workers, None))) as batches:
        for batch in with_progress(batches, len(names), "images", "scoring files"):
            index = batch.indices[0]
            image_confusion = ConfusionMatrix(dataset.info.num_classes, dataset.info.ignore)
            try:
                image_confusion.update(read_mask(files[index]), batch.label[0])
            except DataError:
                raise  # names the file already
            except ValueError as error:
                raise DataError(f"{printable(files[index])}: {error}") from None
            confusion.merge(image_confusion)
            counts[index] = image_confusion.class_counts()
            errors.add(index, image_confusion)
    scores = confusion.scores(dataset.info.classes, len(names))
    protocol = FROM_FILES | data_fingerprint(dataset.info.name, names, counts)
    return Evaluation(scores, confusion.matrix, protocol, counts, names, errors=errors.merged())


def find_label_files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Find the PNG file of each image.

    Raises:
        DataError: images have none; says what was expected.
    """
    top = folder / "labels" if (folder / "labels").is_dir() else folder
    last_parts = [name.rpartition("/")[2] for name in names]
    unique = len(set(last_parts)) == len(names)
    files = []
    for name, last in zip(names, last_parts, strict=True):
        candidates = [top / f"{name}.png", *([top / f"{last}.png"] if unique else [])]
        files.append(next((path for path in candidates if path.is_file()), None))
    missing = [name for name, file in zip(names, files, strict=True) if file is None]
    if missing:
        raise DataError(
            f"{printable(folder)}: {len(missing)} of {len(names)} images have no file, such as {printable(missing[0])}.png. Write one index "
            "PNG per image, with train ids at the size of its label and the name of the image."
        )
    return [file for file in files if file is not None]
