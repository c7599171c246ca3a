"""Classes of a converted data set, and the label of each annotation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from segzoo.class_names import background_id, background_order_errors, class_name_errors, first_class_note, likely_misspellings
from segzoo.data.annotations.regions import Annotations
from segzoo.data.annotations.shapes import find_label
from segzoo.data.dataset_info import class_id, unknown_class_error
from segzoo.messages import format_override
from segzoo.registry import ConfigError
from segzoo.types import IGNORE

IGNORE_LABELS = ("__ignore__", "ignore")
LABELME_BACKGROUND = "_background_"


@dataclass(frozen=True)
class ClassTable:
    """Classes, and the train ids of labels.

    Attributes:
        classes: class names, background first.
        ids: label -> train id, or 255.
        names: the setting ``names``.
    """

    classes: tuple[str, ...]
    ids: dict[str, int]
    names: dict[str, str]

    def find(self, label: object) -> int | None:
        """Train id of a label, 255 for ignored pixels, None if unknown."""
        name = find_label(label, self.ids)
        return None if name is None else self.ids[name]


def make_class_table(annotations: Annotations, classes: tuple[str, ...] | None, names: dict[str, str]) -> ClassTable:
    """Choose the classes of a data set.

    Args:
        annotations: what the readers found.
        classes: names in the order of their train ids, background first. None takes all names, the background first and the others
            sorted, so that neither the order of the files nor that of the annotations matters.
        names: label in the files -> class, where they differ.

    Raises:
        ConfigError: the classes or names are invalid.
    """
    labels = _labels(annotations)
    if classes is None:
        classes = _sorted_classes(names.get(label, label) for label in labels)
    errors = [f"action.classes: {error}" for error in class_name_errors(classes)]
    if len(classes) < 2 or len(set(classes)) < len(classes):
        errors.append(f"action.classes={list(classes)}: expected at least two different names, the background first.")
    if len(classes) > IGNORE and list(classes)[IGNORE] != "ignore":
        errors.append(f"action.classes: the name at position {IGNORE} must be 'ignore', because train id {IGNORE} is ignored.")
    if not errors and any(image.mask is None for image in annotations.images):
        errors += background_order_errors(classes, "action.classes")
    for label, name in names.items():
        if class_id(name, classes) is None:
            errors.append(f"action.names.{label}: the class {unknown_class_error(name, (*classes, 'ignore'))}")
    if errors:
        raise ConfigError(errors)
    ids = {name: number for number, name in enumerate(classes) if name != "ignore"}
    ids |= {label: IGNORE for label in IGNORE_LABELS if label not in ids}
    ids |= {LABELME_BACKGROUND: 0} if LABELME_BACKGROUND not in ids else {}
    ids |= {label.strip(): number for label, name in names.items() if (number := class_id(name, classes)) is not None}
    return ClassTable(classes, ids, names)


def _labels(annotations: Annotations) -> set[str]:
    """Collect all labels, declared or used."""
    labels = set(annotations.classes)
    for image in annotations.images:
        labels |= set(image.mask.names) if image.mask else set()
        labels |= {str(region.label) for region in image.regions if isinstance(region.label, int | str)}
    return {label.strip() for label in labels if label.strip()}


def _sorted_classes(found: Iterable[str]) -> tuple[str, ...]:
    """Sort class names by name, the background first."""
    names = set(found) - {*IGNORE_LABELS, LABELME_BACKGROUND}
    background = next((name for name in sorted(names) if background_id((name,)) == 0), "background")
    classes = [background, *sorted(names - {background}, key=lambda name: (name.casefold(), name))]
    if len(classes) > IGNORE:
        classes.insert(IGNORE, "ignore")
    return tuple(classes)


def class_notes(annotations: Annotations, table: ClassTable) -> list[str]:
    """Remarks on classes that may not be what is meant."""
    return [*_first_class_notes(annotations, table), *_alike_notes(annotations, table.classes)]


def _first_class_notes(annotations: Annotations, table: ClassTable) -> list[str]:
    """Remarks on shapes of the first class that is no background."""
    labels = [str(region.label).strip() for image in annotations.images for region in image.regions]
    count = sum(label != LABELME_BACKGROUND and table.find(label) == 0 for label in labels)
    if not count or background_id(table.classes) == 0:
        return []
    return [first_class_note(f"{count} shape{'s are' if count > 1 else ' is'}", table.classes, "action.classes")]


def _alike_notes(annotations: Annotations, classes: tuple[str, ...]) -> list[str]:
    """Remarks on classes whose names differ only in case, or look misspelled."""
    first: dict[str, str] = {}
    notes = []
    for name in classes:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            notes.append(
                f"the classes {other!r} and {name!r} differ only in case. If they are one class, map one to the other in action.names."
            )
    labels = (str(region.label).strip() for image in annotations.images for region in image.regions)
    counts = Counter(label for label in labels if label in classes)
    return notes + misspelling_notes(counts, "action.names")


def misspelling_notes(counts: Mapping[str, int], key: str | None = None) -> list[str]:
    """Remarks on rare labels that resemble a frequent one.

    Args:
        counts: label -> number of annotations.
        key: the setting that maps labels to classes, None if there is none.
    """
    return [
        f"{label!r} ({counts[label]} annotation{'s' if counts[label] > 1 else ''}) is close to {other!r} ({counts[other]}). If it is a "
        f"misspelling{f': {format_override(key, {label: other})}' if key else ', correct it in the files.'}"
        for label, other in likely_misspellings(counts).items()
    ]
