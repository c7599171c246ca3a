"""Complete check of a data set.

It decodes every file, where the check before a training reads heads and samples, and compares the files of all splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from segzoo.data.checks.check import check_files
from segzoo.data.checks.pair_survey import FileSurvey
from segzoo.data.checks.split_report import SplitReport, inspect_split
from segzoo.data.paired_dataset import PairedDataset
from segzoo.data.verification.duplicates import duplicate_findings
from segzoo.data.verification.findings import Finding, file_findings
from segzoo.types import DataError, Dataset


@dataclass(frozen=True)
class Verification:
    """Result of a complete check.

    Attributes:
        reports: summary of each split.
        surveys: surveys of the files of each split; empty for splits without files.
        findings: errors and notes, errors first.
    """

    reports: dict[str, SplitReport]
    surveys: dict[str, list[FileSurvey]]
    findings: list[Finding]

    @property
    def errors(self) -> list[str]:
        """Texts of the errors, one line each."""
        return [finding.text for finding in self.findings if finding.is_error]

    @property
    def notes(self) -> list[str]:
        """Texts of the notes, one line each."""
        return [finding.text for finding in self.findings if not finding.is_error]


def verify_splits(splits: Mapping[str, Dataset]) -> Verification:
    """Check every file of every split.

    Errors are invalid files, labels with nothing to learn, and images that are in two splits. Everything that may be intended is a note.

    Args:
        splits: name of each split and its data set.
    """
    reports, surveys, findings = {}, {}, []
    for name, dataset in splits.items():
        try:
            dataset.scan()
            if isinstance(dataset, PairedDataset):
                surveys[name], reports[name], errors = check_files(name, dataset, complete=True)
                findings += [Finding("invalid", True, error) for error in errors]
            else:
                reports[name] = inspect_split(dataset, seconds=float("inf"))
        except DataError as error:
            findings.append(Finding("invalid", True, str(error)))
    for name, own in surveys.items():
        findings += file_findings(name, own, splits[name].info)
    findings += duplicate_findings(surveys)
    findings += _class_findings(reports)
    findings = list({finding.text: finding for finding in findings}.values())
    return Verification(reports, surveys, sorted(findings, key=lambda finding: not finding.is_error))


def _class_findings(reports: Mapping[str, SplitReport]) -> Iterator[Finding]:
    """Remarks on the frequencies of the classes."""
    train = reports.get("train")
    for name, report in reports.items():
        if not any(report.class_fractions.values()) and report.ignored_fraction < 1:
            continue  # errors kept the labels from being counted
        unseen = [
            one for one in report.class_fractions if train and one in train.absent_classes and one not in report.absent_classes
        ]
        if unseen and train and any(train.class_fractions.values()):
            text = f"{name}: {', '.join(unseen)} is labeled here but not in train, so no model can learn it."
            yield Finding("unseen_class", False, text)
        for line in report.warnings():
            yield Finding("classes", False, f"{name}: {line}")
