"""Check of all splits of a data set before training starts.

It reads the head of every image, and every label file of sets of up to some thousand images. All errors are reported at once.
"""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from segzoo.data.checks.label_survey import LabelSurvey
from segzoo.data.checks.split_report import SplitReport, inspect_split, make_report, shuffled
from segzoo.data.checks.survey_cache import SurveyCache, label_stamp
from segzoo.data.file_index import FilePair
from segzoo.data.image_io import printable, read_header
from segzoo.data.paired_dataset import PairedDataset
from segzoo.types import DataError, Dataset

WHOLE_SET = 5000  # label files that are all read; of more, a sample
SAMPLE_SECONDS = 10.0  # for reading that sample
MIN_CACHED = 100  # new surveys that justify a file
MAX_LISTED = 20  # errors in one message


class FileSurvey(NamedTuple):
    """Result for one pair of files."""

    pair: FilePair
    size: tuple[int, int]
    labels: LabelSurvey | None  # None: not read, for lack of time
    error: str = ""


def check_splits(splits: Mapping[str, Dataset], min_sides: Mapping[str, int] | None = None) -> dict[str, SplitReport]:
    """Check the splits of a data set and summarize each.

    Data sets that read files are checked file by file. Of every data set, whole samples are read for up to two seconds a split.

    Args:
        splits: name of each split, as messages give it, and its data set.
        min_sides: smallest height and width that the model accepts in a split, in pixels.

    Raises:
        DataError: names every error of all splits, up to a limit.
    """
    reports, errors = {}, scan_errors(splits)
    for name, dataset in splits.items() if not errors else ():
        if isinstance(dataset, PairedDataset):
            reports[name], own = _check_files(dataset, (min_sides or {}).get(name, 1))
            errors += own
    for name, dataset in splits.items() if not errors else ():
        try:
            report = inspect_split(dataset)
        except DataError as error:
            errors.append(str(error))
        else:
            reports.setdefault(name, report)
    raise_errors(errors)
    return reports


def scan_errors(splits: Mapping[str, Dataset]) -> list[str]:
    """Errors in the location of the files, without opening one."""
    errors = []
    for dataset in splits.values():
        try:
            dataset.scan()
        except DataError as error:
            errors.append(str(error))
    return list(dict.fromkeys(errors))


def raise_errors(errors: list[str]) -> None:
    """Raise one DataError for several errors, if there are any."""
    listed = [f"{number}. {error}" for number, error in enumerate(errors[:MAX_LISTED], 1)] if len(errors) > 1 else errors
    if len(errors) > MAX_LISTED:
        listed.append(f"... and {len(errors) - MAX_LISTED} more")
    if errors:
        raise DataError("\n".join([f"{len(errors)} errors in the data:", *listed] if len(errors) > 1 else listed))


def _check_files(dataset: PairedDataset, min_side: int) -> tuple[SplitReport, list[str]]:
    """Check the files of a split, or a sample of many."""
    seconds = SAMPLE_SECONDS if len(dataset) > WHOLE_SET else float("inf")
    results, errors, notes = survey_files(dataset, min_side, seconds)
    read = [result for result in results if result.labels is not None]
    sizes = Counter(result.size for result in read)
    counts = [dataset.reader.train_ids(result.labels.counts) for result in read if result.labels and not errors]
    return make_report(dataset.info, len(dataset), sizes, counts, notes), errors


def survey_files(
    dataset: PairedDataset, min_side: int = 1, seconds: float = float("inf")
) -> tuple[list[FileSurvey], list[str], dict[str, None]]:
    """Survey the pairs of files of a split, in parallel.

    Args:
        dataset: the split.
        min_side: smallest valid height and width of an image, in pixels.
        seconds: time limit for label files. The heads of all images are read.

    Returns:
        The survey of each pair in the order of the images' paths, all errors, and notes without repetition.
    """
    pairs = dataset.scan()
    reader = dataset.reader
    first = next((os.path.dirname(os.path.abspath(pair.label)) for pair in pairs if pair.label), "")
    cache = SurveyCache(None if reader.survey_key is None else f"{reader.survey_key} {first}")
    deadline = time.monotonic() + seconds

    def survey(index: int) -> FileSurvey:
        return _survey_pair(dataset, pairs[index], cache, min_side, deadline)

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders change the global filters
        warnings.simplefilter("ignore")
        results = list(pool.map(survey, shuffled(len(pairs))))
    cache.save(MIN_CACHED)
    results.sort(key=lambda result: os.fsencode(result.pair.image))
    surveys = {result.pair.label or result.pair.image: result.labels for result in results if result.labels is not None}
    errors = group_errors((_subject(result.pair), result.error) for result in results if result.error)
    found, notes = reader.survey_errors(surveys, complete=len(surveys) == len(pairs))
    notes += [note for survey in surveys.values() for note in survey.notes]
    return results, errors + found, dict.fromkeys(notes)


def _survey_pair(dataset: PairedDataset, pair: FilePair, cache: SurveyCache, min_side: int, deadline: float) -> FileSurvey:
    """Check one pair of files."""
    size = (0, 0)
    try:
        size, orientation = read_header(pair.image)
        if min(size) < min_side:
            return FileSurvey(
                pair, size, None, f"{printable(pair.image)}: {size[1]}x{size[0]} pixels (W x H) {_too_small(min_side)}"
            )
        if pair.label is None:
            return FileSurvey(pair, size, LabelSurvey({0: size[0] * size[1]}))
        if time.monotonic() > deadline:
            return FileSurvey(pair, size, None)
        stamp = label_stamp(pair.label, (size, orientation))
        if (labels := cache.get(pair.label, stamp)) is None:
            labels = dataset.reader.survey(pair.label, size, orientation)
            cache.put(pair.label, stamp, labels)
        return FileSurvey(pair, size, labels)
    except DataError as error:
        return FileSurvey(pair, size, None, str(error))
    except OSError as error:
        return FileSurvey(pair, size, None, f"{printable(error.filename or pair.image)}: cannot be read: {error.strerror}.")


def _too_small(min_side: int) -> str:
    return f"are fewer than the model's minimum of {min_side}x{min_side}. Enlarge the image, or remove it from the data set."


def _subject(pair: FilePair) -> tuple[str, ...]:
    return tuple(printable(path) for path in (pair.label, pair.image) if path is not None)


def group_errors(found: Iterable[tuple[tuple[str, ...], str]]) -> list[str]:
    """Merge the same problem of several files into one line.

    Args:
        found: the paths of a pair of files, and its errors, one line each, which begin with one of the paths.
    """
    groups: dict[str, list[str]] = {}
    for paths, text in found:
        for line in text.splitlines():
            path = next((path for path in paths if line.startswith(path)), "")
            groups.setdefault(line.removeprefix(path).partition(": ")[2], []).append(line)
    return [lines[0] + (f" (the same in {len(lines) - 1} more places)" if len(lines) > 1 else "") for lines in groups.values()]
