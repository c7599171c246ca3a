"""Remarks on the files of a split that has been read completely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from segzoo.data.channels.sample_bits import UNUSED_BITS
from segzoo.data.checks.pair_survey import FileSurvey
from segzoo.data.checks.split_report import constant_error
from segzoo.messages import printable
from segzoo.types import DatasetInfo


class Finding(NamedTuple):
    """One result of a complete check.

    Attributes:
        kind: a word for programs, such as ``near_duplicate``.
        is_error: whether the data set must not be used like this. Otherwise it is a note.
        text: one line that names a file and says what to do.
        images: names of all images concerned, as ``<split>/<stem>``.
    """

    kind: str
    is_error: bool
    text: str
    images: tuple[str, ...] = ()


def file_findings(split: str, surveys: Sequence[FileSurvey], info: DatasetInfo) -> Iterator[Finding]:
    """Remarks on single files of a completely read split."""
    images = [survey for survey in surveys if survey.image is not None]
    invalid = [survey for survey in surveys if survey.error]
    yield from _listed("invalid_file", split, invalid, len(surveys), "have errors, see below.")
    constant = [survey for survey in images if survey.image and survey.image.constant]
    if constant and len(constant) == len(images):
        yield Finding("constant", True, f"{split}: {constant_error([printable(survey.pair.image) for survey in constant])}")
    else:
        yield from _listed(
            "constant", split, constant, len(images), "show a single color. Remove them if they are failed exposures."
        )
    dark = [survey for survey in images if survey.image and survey.image.dark]
    yield from _listed("dark", split, dark, len(images), UNUSED_BITS)
    turned = [survey for survey in images if survey.image and survey.image.orientation != 1]
    yield from _listed(
        "turned", split, turned, len(images), "carry an orientation and are read upright. Their labels fit them by size."
    )
    kinds = Counter(survey.image.kind for survey in images if survey.image)
    if len(kinds) > 1:
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        odd = [survey for survey in images if survey.image and survey.image.kind == kinds.most_common()[-1][0]]
        yield Finding(
            "kind",
            False,
            f"{split}: the images differ in kind: {listed} (such as {printable(odd[0].pair.image)}).",
            _names(split, odd),
        )
    yield from _label_findings(split, surveys, info)


def _label_findings(split: str, surveys: Sequence[FileSurvey], info: DatasetInfo) -> Iterator[Finding]:
    """Remarks on label files that hold one value only."""
    labeled = [survey for survey in surveys if survey.labels is not None]
    single: dict[int, list[FileSurvey]] = {}
    for survey in labeled:
        if survey.labels and len(survey.labels.counts) == 1:
            value = next(iter(survey.labels.counts))
            single.setdefault(info.label_map.get(value, value), []).append(survey)
    for train_id, found in single.items():
        if len(found) == len(labeled):
            continue  # an error or a remark on the whole split
        if train_id == info.ignore:
            yield from _listed(
                "ignored", split, found, len(labeled), "have labels that are all ignored. Label them, or remove them."
            )
        elif train_id == info.background:
            yield from _listed(
                "background", split, found, len(labeled), "are labeled as background alone. Label them, or keep them on purpose."
            )


def _listed(kind: str, split: str, found: Sequence[FileSurvey], total: int, text: str) -> Iterator[Finding]:
    """One finding for several images, if there are any."""
    if found:
        first = printable(found[0].pair.image)
        yield Finding(kind, False, f"{split}: {len(found)} of {total} images (first {first}) {text}", _names(split, found))


def _names(split: str, surveys: Iterable[FileSurvey]) -> tuple[str, ...]:
    return tuple(f"{split}/{survey.pair.name}" for survey in surveys)
