"""Survey of the image and label files of a split."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from segzoo.data.channels.reading import read_size
from segzoo.data.checks.image_survey import ImageSurvey, survey_image
from segzoo.data.checks.label_survey import LabelSurvey
from segzoo.data.checks.split_report import shuffled
from segzoo.data.checks.survey_cache import SurveyCache, label_stamp
from segzoo.data.file_index import FilePair
from segzoo.data.paired_dataset import PairedDataset
from segzoo.messages import printable
from segzoo.progress import with_progress
from segzoo.resources import cpu_cores
from segzoo.types import DataError

MIN_CACHED = 100  # new surveys that justify a file
BATCH = 16  # pairs read before the time is looked at


class FileSurvey(NamedTuple):
    """Survey of one pair of files.

    Attributes:
        pair: the files.
        size: (H, W) of the upright image, (0, 0) if it is unreadable.
        labels: counts of the label file; None after an error.
        error: why a file is invalid, one or several lines.
        image: survey of the whole image, None if only its head was read.
    """

    pair: FilePair
    size: tuple[int, int]
    labels: LabelSurvey | None
    error: str = ""
    image: ImageSurvey | None = None


def survey_pairs(dataset: PairedDataset, min_side: int, *, complete: bool, seconds: float = float("inf")) -> list[FileSurvey]:
    """Survey the files of a split on all processors.

    Args:
        dataset: the split.
        min_side: smallest height and width that the model accepts, in pixels.
        complete: decode whole images, not only their heads, and read labels again whose survey is cached.
        seconds: time after which no further pairs are read. They are read in a fixed shuffled order.

    Returns:
        The surveys in the order of the image paths.
    """
    pairs, reader = dataset.scan(), dataset.reader
    first = next((os.path.dirname(os.path.abspath(pair.label_path)) for pair in pairs if pair.label_path), "")
    cache = SurveyCache(None if reader.survey_key is None else f"{reader.survey_key} {first}")
    deadline = time.monotonic() + seconds

    def survey(index: int) -> FileSurvey:
        return _survey_pair(dataset, pairs[index], cache, min_side, complete)

    def results(pool: ThreadPoolExecutor) -> Iterator[FileSurvey]:
        order = shuffled(len(pairs))
        for start in range(0, len(order), BATCH):
            yield from pool.map(survey, order[start : start + BATCH])
            if time.monotonic() > deadline:
                return

    with ThreadPoolExecutor(cpu_cores()) as pool:
        surveys = list(with_progress(results(pool), len(pairs), "images", f"checking {dataset.info.name}"))
    cache.save(MIN_CACHED)
    return sorted(surveys, key=lambda survey: os.fsencode(survey.pair.image_path))


def _survey_pair(dataset: PairedDataset, pair: FilePair, cache: SurveyCache, min_side: int, complete: bool) -> FileSurvey:
    size, image = (0, 0), None
    try:
        if complete:
            image = survey_image(pair.images, dataset.info.pixels, dataset.info.show_channels)
            size, orientation = image.size, image.orientation
        else:
            size, orientation = read_size(pair.image)
        if min(size) < min_side:
            return FileSurvey(
                pair, size, None, f"{printable(pair.image)}: {size[1]}x{size[0]} pixels (W x H) {_too_small(min_side)}"
            )
        if pair.label is None:
            return FileSurvey(pair, size, LabelSurvey({0: size[0] * size[1]}), image=image)
        stamp = label_stamp(pair.label, (size, orientation))
        if complete or (labels := cache.get(pair.label, stamp)) is None:
            labels = dataset.reader.survey(pair.label, size, orientation)
            cache.put(pair.label, stamp, labels)
        return FileSurvey(pair, size, labels, image=image)
    except DataError as error:
        return FileSurvey(pair, size, None, str(error))
    except OSError as error:
        return FileSurvey(pair, size, None, f"{printable(error.filename or pair.image)}: cannot be read: {error.strerror}.")


def _too_small(min_side: int) -> str:
    return f"are fewer than the model's minimum of {min_side}x{min_side}. Enlarge the image, or remove it from the data set."


def subject(pair: FilePair) -> tuple[str, ...]:
    """Printable paths of a pair, with one of which its errors begin."""
    return tuple(printable(path) for path in (pair.label, *pair.images) if path is not None)
