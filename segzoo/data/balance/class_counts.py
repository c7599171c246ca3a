"""Labeled pixels of each class in each image of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from segzoo.data.checks.check import raise_errors, survey_files
from segzoo.data.checks.label_survey import count_labels
from segzoo.data.checks.split_report import count_table
from segzoo.data.paired_dataset import PairedDataset
from segzoo.progress import with_progress
from segzoo.resources import cpu_cores
from segzoo.types import Dataset


def count_classes(dataset: Dataset) -> np.ndarray:
    """Count the labeled pixels of each class in each image.

    All labels are read, on all cores. Those of label files are kept in the cache of the check before training.

    Args:
        dataset: a labeled data set.

    Returns:
        (images, classes) int64, in the order of the data set

    Raises:
        DataError: names every error of the label files, up to a limit.
    """
    dataset.scan()
    counts: Sequence[Mapping[int, int]]
    if isinstance(dataset, PairedDataset):
        surveys, errors, _ = survey_files(dataset)
        raise_errors(errors)
        by_image = {survey.pair.image: survey.labels.counts for survey in surveys if survey.labels is not None}
        counts = [dataset.reader.train_ids(by_image[pair.image]) for pair in dataset.scan()]
    else:
        with ThreadPoolExecutor(cpu_cores()) as pool:
            labels = pool.map(lambda index: count_labels(dataset[index].label), range(len(dataset)))
            counts = list(with_progress(labels, len(dataset), "images", "counting classes"))
    return count_table(counts, dataset.info)
