"""Check of all splits of a data set before training starts.

It reads the head of every image and every label file of splits of up to some thousand images, and a sample of larger ones. All errors are
reported at once. ``verification.complete`` is the complete form of the same check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from segzoo.data.checks.label_survey import add_counts
from segzoo.data.checks.pair_survey import FileSurvey, subject, survey_pairs
from segzoo.data.checks.split_report import SplitReport, inspect_split, label_errors, make_report
from segzoo.data.paired_dataset import PairedDataset
from segzoo.messages import printable
from segzoo.types import DataError, Dataset

WHOLE_SET = 5000  # images of a split whose label files are all read; of more, a sample
SAMPLE_SECONDS = 0.25  # for reading that sample, and again for whole images: 1 s for two splits, plus 1 s to list 100,000 pairs
FILE_SECONDS = 2.0  # for whole images of a smaller split of files, which may be damaged
DRAWN_IMAGES = 16  # at least, of a split without files; they show about every class
MAX_LISTED = 20  # errors in one message


def check_splits(splits: Mapping[str, Dataset], min_sides: Mapping[str, int] | None = None) -> dict[str, SplitReport]:
    """Check the splits of a data set and summarize each.

    Data sets that read files are checked file by file. Of every data set, whole samples are read for up to two seconds a split, or
    0.25 s if it is large or not made of files, but at least 16 images of the latter.

    Args:
        splits: name of each split, as messages give it, and its data set.
        min_sides: smallest height and width that the model accepts in a split, in pixels.

    Raises:
        DataError: names every error of all splits, up to a limit.
    """
    reports, errors = {}, scan_errors(splits)
    for name, dataset in splits.items() if not errors else ():
        if isinstance(dataset, PairedDataset):
            seconds = SAMPLE_SECONDS if _is_large(dataset) else float("inf")
            _, reports[name], own = check_files(name, dataset, (min_sides or {}).get(name, 1), seconds=seconds)
            errors += own
    for name, dataset in splits.items() if not errors else ():
        has_files = isinstance(dataset, PairedDataset)
        seconds = FILE_SECONDS if has_files and not _is_large(dataset) else SAMPLE_SECONDS
        try:
            report = inspect_split(dataset, seconds=seconds, at_least=1 if has_files else DRAWN_IMAGES)
        except DataError as error:
            errors.append(str(error))
        else:
            files = reports.get(name, report)
            reports[name] = replace(files, notes=tuple(dict.fromkeys((*files.notes, *report.notes))))
    raise_errors(errors)
    for name, note in shared_files(splits).items():
        reports[name] = replace(reports[name], notes=(*reports[name].notes, note))
    return reports


def check_files(
    name: str, dataset: PairedDataset, min_side: int = 1, *, complete: bool = False, seconds: float = float("inf")
) -> tuple[list[FileSurvey], SplitReport, list[str]]:
    """Check the files of a split.

    Args:
        name: name of the split.
        dataset: the split.
        min_side, complete, seconds: as for ``survey_pairs``.

    Returns:
        The survey of each pair, a summary, and all errors.
    """
    surveys, errors, notes = survey_files(dataset, min_side, complete=complete, seconds=seconds)
    read = [survey for survey in surveys if survey.labels is not None]
    counts = [dataset.reader.train_ids(survey.labels.counts) for survey in read if survey.labels and not errors]
    report = make_report(dataset.info, len(dataset), Counter(survey.size for survey in read), counts, notes)
    if not errors and len(read) == len(dataset):
        errors = label_errors(name, report, add_counts(survey.labels.counts for survey in read if survey.labels), dataset.info)
    return surveys, report, errors


def survey_files(
    dataset: PairedDataset, min_side: int = 1, *, complete: bool = False, seconds: float = float("inf")
) -> tuple[list[FileSurvey], list[str], dict[str, None]]:
    """Survey the files of a split and judge them together.

    Args:
        dataset: the split.
        min_side, complete, seconds: as for ``survey_pairs``.

    Returns:
        The survey of each pair in the order of the images' paths, all errors, and notes without repetition.
    """
    surveys = survey_pairs(dataset, min_side, complete=complete, seconds=seconds)
    labels = {survey.pair.label or survey.pair.image: survey.labels for survey in surveys if survey.labels is not None}
    errors = group_errors((subject(survey.pair), survey.error) for survey in surveys if survey.error)
    found, notes = dataset.reader.survey_errors(labels, complete=len(labels) == len(dataset))
    notes += [note for survey in labels.values() for note in survey.notes]
    return surveys, errors + found, dict.fromkeys(notes)


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


def _is_large(dataset: Dataset) -> bool:
    return isinstance(dataset, PairedDataset) and len(dataset) > WHOLE_SET


def group_errors(found: Iterable[tuple[tuple[str, ...], str]]) -> list[str]:
    """Merge the same problem of several files into one line.

    Args:
        found: the paths of a pair of files, and its errors, one line each, which begin with one of the paths.
    """
    groups: dict[str, list[str]] = {}
    for paths, text in found:
        for line in text.splitlines():
            path = next((path for path in paths if line.startswith(path)), "")
            groups.setdefault(line.removeprefix(path).partition(": ")[2] or line, []).append(line)
    return [_shorten(lines) for lines in groups.values()]


def _shorten(lines: list[str]) -> str:
    more = len(lines) - 1
    return f"{lines[0]} (the same in {more} more place{'s' if more > 1 else ''})" if more else lines[0]


def shared_files(splits: Mapping[str, Dataset]) -> dict[str, str]:
    """Note images that a split shares with train, by split."""
    images = {
        name: {pair.image_path for pair in split.scan()} for name, split in splits.items() if isinstance(split, PairedDataset)
    }
    notes = {}
    for name, paths in images.items():
        if name != "train" and (shared := sorted(paths & images.get("train", set()))):
            notes[name] = (
                f"{len(shared)} of {len(paths)} images are also in train, such as {printable(shared[0])}: scores will be too high."
            )
    return notes
