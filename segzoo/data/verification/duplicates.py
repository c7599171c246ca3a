"""Equal and similar images of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from segzoo.data.checks.pair_survey import FileSurvey
from segzoo.data.near_duplicates import nearest_duplicates
from segzoo.data.verification.findings import Finding
from segzoo.messages import printable

MAX_PAIRS = 3  # in a message
Surveys = Mapping[str, Sequence[FileSurvey]]  # by split
Pair = tuple[FileSurvey, FileSurvey]


def duplicate_findings(surveys: Surveys) -> Iterator[Finding]:
    """Find equal images within splits, and equal and similar images between them.

    Args:
        surveys: of completely read splits. Images without contrast are left out.
    """
    read = {name: [one for one in own if one.image is not None and not one.image.constant] for name, own in surveys.items()}
    for name, own in read.items():
        yield from _repeated(name, own)
    names = list(read)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            yield from _shared(first, second, read)


def _repeated(split: str, surveys: Sequence[FileSurvey]) -> Iterator[Finding]:
    """Equal images within a split."""
    first_of: dict[bytes, FileSurvey] = {}
    pairs = [(first, survey) for survey in surveys if (first := first_of.setdefault(_digest(survey), survey)) is not survey]
    differing = [pair for pair in pairs if pair[0].labels and pair[1].labels and pair[0].labels.counts != pair[1].labels.counts]
    if differing:
        text = f"{split}: {len(differing)} images equal another one but have other labels: {_listed(differing)}. Correct one of the labels."
        yield Finding("contradiction", False, text, _names(split, split, differing))
    if len(pairs) > len(differing):
        text = f"{split}: {len(pairs)} images equal another one: {_listed(pairs)}. They count twice."
        yield Finding("duplicate", False, text, _names(split, split, pairs))


def _shared(first: str, second: str, read: Surveys) -> Iterator[Finding]:
    """Equal and similar images of two splits."""
    of_digest = {_digest(survey): survey for survey in read[first]}
    equal = [(of_digest[_digest(survey)], survey) for survey in read[second] if _digest(survey) in of_digest]
    advice = "Take them out of one split, or draw the splits again with `python tools/dataset.py action=split`."
    if equal:
        count = f"{len(equal)} of {len(read[second])} images of {second} are also in {first}"
        text = f"{count}, so its scores will be too high: {_listed(equal)}. {advice}"
        yield Finding("leak", True, text, _names(first, second, equal))
    others = [survey for survey in read[second] if _digest(survey) not in of_digest]
    if not others or not read[first]:
        return
    nearest = nearest_duplicates(_thumbnails(others), _thumbnails(read[first]))
    similar = [(read[first][index], survey) for index, survey in zip(nearest, others, strict=True) if index >= 0]
    if similar:
        count = f"{len(similar)} of {len(read[second])} images of {second} look the same as one of {first}"
        text = f"{count}: {_listed(similar)}. If they show the same scene, scores will be too high. {advice}"
        yield Finding("near_duplicate", False, text, _names(first, second, similar))


def _digest(survey: FileSurvey) -> bytes:
    assert survey.image is not None
    return survey.image.digest


def _thumbnails(surveys: Sequence[FileSurvey]) -> np.ndarray:
    return np.stack([survey.image.thumbnail for survey in surveys if survey.image is not None])


def _listed(pairs: Sequence[Pair]) -> str:
    shown = "; ".join(f"{printable(second.pair.image)} and {printable(first.pair.image)}" for first, second in pairs[:MAX_PAIRS])
    return shown + (f"; and {len(pairs) - MAX_PAIRS} more" if len(pairs) > MAX_PAIRS else "")


def _names(first: str, second: str, pairs: Sequence[Pair]) -> tuple[str, ...]:
    named = (name for one, other in pairs for name in (f"{first}/{one.pair.name}", f"{second}/{other.pair.name}"))
    return tuple(dict.fromkeys(named))
