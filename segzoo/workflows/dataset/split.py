"""The action ``split``: lists of the images of each split."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from segzoo.config.build import build_data
from segzoo.data.balance.class_counts import count_classes
from segzoo.data.splits import SPLITS, write_list
from segzoo.data.splitting.assignment import Method
from segzoo.data.splitting.divide import divide, size_notes
from segzoo.data.splitting.grouping import find_near_duplicates, group_names, join_groups
from segzoo.data.splitting.patterns import EXAMPLE, group_pattern_error
from segzoo.data.splitting.side_report import Side, absent_class_notes, shared_name_note, side_rows
from segzoo.messages import format_override, printable
from segzoo.registry import ACTIONS, DATA, ConfigError, Range, Seed
from segzoo.reporting.tables import markdown_table
from segzoo.types import PlainMapping
from segzoo.workflows.dataset._config_file import write_data_config
from segzoo.workflows.dataset._report import ActionReport

MAX_LISTED = 3  # groups in a note


@ACTIONS.register
def split(
    data: PlainMapping,
    out: Path,
    *,
    method: Method = "stratified",
    group_by: str | None = None,
    val_ratio: Annotated[float, Range(0, 1, above=True)] = 0.2,
    test_ratio: Annotated[float, Range(0, 1)] = 0.0,
    folds: Annotated[int, Range(2, 100)] | None = None,
    near_duplicates: Literal["together", "ignore"] = "together",
    seed: Seed = 0,
) -> ActionReport:
    """Divide all images of a data set into lists.

    A list has one stem per line. If the data set has lists, the images of all of them are divided again. The same images and settings give the same lists.

    Args:
        data: the ``data`` section.
        out: the output directory. It gets ``lists/``, and the YAML of a data set with these lists in ``conf/data/``.
        method, seed: as in ``divide``. ``hash`` assigns images as ``data.val_ratio`` does, except where some look the same.
        group_by: pattern of the names of groups that stay together, as in ``group_names``.
        val_ratio, test_ratio: fractions of the images in val and test.
        folds: number of parts, each of which is val once, instead of ``val_ratio`` and ``test_ratio``.
        near_duplicates: whether images that look the same, and their groups, stay together. Where the camera never moves, images of
            different parts look the same: then ``group_by`` has to name the parts, and this must be ``ignore``.

    Raises:
        ConfigError: a setting is invalid or contradicts another one.
        DataError: files are missing or invalid, or there are too few groups.
    """
    shares = {"val": val_ratio, "test": test_ratio, "train": 1 - val_ratio - test_ratio}
    fractions = {f"fold{number}": 1 / folds for number in range(1, folds + 1)} if folds else shares
    errors = _data_errors(data) + _setting_errors(fractions, method, group_by, test_ratio, seed)
    if errors:
        raise ConfigError(errors)
    dataset = build_data({**data, "val_ratio": None, "group_by": None}, "all")
    stems = [dataset.name(index) for index in range(len(dataset))]
    named = group_names(stems, group_by, "action.group_by")
    class_counts = count_classes(dataset)
    linked = find_near_duplicates(dataset) if near_duplicates == "together" else []
    groups = join_groups(named, linked)
    sides = divide(stems, groups, class_counts, {name: share for name, share in fractions.items() if share}, method, seed)
    sides = {name: sides[name] for name in (fractions if folds else SPLITS) if name in sides}
    names = _write(data, out.absolute(), sides, stems)
    classes, stems_of = dataset.info.classes, {name: side.stems for name, side in sides.items()}
    notes = [*_look_alike_notes(stems, named, linked), *size_notes(sides, fractions), *absent_class_notes(sides, classes)]
    if group_by is None and (note := shared_name_note(stems_of, "action.group_by")):
        notes.append(note)
    command = f"--config-dir {shlex.quote(str(out / 'conf'))} {'-m ' if folds else ''}data={','.join(names)}"
    lines = [*(f"note: {note}" for note in notes), f"train with: python tools/train.py {command}"]
    text = markdown_table(*side_rows(sides, classes)) + "\n".join(lines)
    return ActionReport(text, {"sides": {name: _summary(side) for name, side in sides.items()}, "data": names, "notes": notes})


def _data_errors(data: PlainMapping) -> list[str]:
    """Reasons why lists cannot divide a data set."""
    if "lists" not in DATA.settings(data["name"]):
        listed = [name for name in DATA.names() if "lists" in DATA.settings(name)]
        return [f"data={data['name']} has splits of its own. action=split writes lists for the data sets {' and '.join(listed)}."]
    patterns = {key: data[key] for key in ("images", "labels") if "{split}" in str(data.get(key, ""))}
    if not patterns:
        return []
    shown = ", ".join(f"data.{key}={pattern}" for key, pattern in patterns.items())
    return [
        f"{shown}: the folder or the name of a file says to which split it belongs, and a list cannot change that. Remove {{split}}: "
        "{stem} spans folders, so that data.images='images/{stem}.*' finds images/train/a.png and lists it as train/a. Where images and "
        "labels then do not share a stem, move them into one folder each."
    ]


def _setting_errors(
    fractions: Mapping[str, float], method: Method, group_by: str | None, test_ratio: float, seed: int
) -> list[str]:
    """Errors in the settings of the action, one line each."""
    errors = []
    if fractions.get("train", 1) < 1e-9:  # a rounding error
        errors.append(
            f"action.val_ratio={fractions['val']:g} and action.test_ratio={test_ratio:g} leave nothing for train: their sum must be below 1."
        )
    if "train" not in fractions and test_ratio:
        errors.append("action.folds divides all images, so there is no test. Set action.test_ratio=0 or action.folds=null.")
    if method == "hash" and seed:
        errors.append(f"action.seed={seed} does not change action.method=hash. Leave it out, or set action.method=stratified.")
    if group_by is not None and (error := group_pattern_error("action.group_by", group_by)):
        errors.append(error)
    return errors


def _write(data: PlainMapping, out: Path, sides: Mapping[str, Side], stems: Sequence[str]) -> list[str]:
    """Write the lists, and the YAML files that name them.

    The lists are read back as a training reads them.

    Returns:
        The names of the data sets: ``split``, or those of the folds.
    """
    if "train" in sides:
        divisions = {"split": {name: side.stems for name, side in sides.items()}}
    else:
        held_out = {name: set(side.stems) for name, side in sides.items()}
        divisions = {
            name: {"train": [stem for stem in stems if stem not in held_out[name]], "val": side.stems}
            for name, side in sides.items()
        }
    for name, parts in divisions.items():
        folder = out / "lists" / name
        folder.mkdir(parents=True, exist_ok=True)
        root = str(Path(data["root"]).expanduser().absolute())
        section = {**data, "root": root, "lists": str(folder / "{split}.txt"), "val_ratio": None, "group_by": None}
        for part, own in parts.items():
            write_list(folder / f"{data.get('splits', SPLITS).get(part, part)}.txt", own)
            build_data(section, part).scan()
        write_data_config(out / "conf" / "data" / f"{name}.yaml", section, "Written by tools/dataset.py action=split")
    return list(divisions)


def _look_alike_notes(stems: Sequence[str], named: Sequence[str], linked: Sequence[Sequence[int]]) -> Iterator[str]:
    """Name images that joined another group because they look the same."""
    joined = [indices for indices in linked if len({named[index] for index in indices}) > 1]
    if joined:
        listed = "; ".join(", ".join(printable(stems[index]) for index in indices[:MAX_LISTED]) for indices in joined[:MAX_LISTED])
        count = sum(map(len, joined))
        yield (
            f"{count} images look the same as another one and stay together, in {len(joined)} groups: {listed}, ... If these are different "
            f"parts before a camera that never moves, name the parts with {format_override('action.group_by', EXAMPLE)} or another pattern, "
            "and set action.near_duplicates=ignore."
        )


def _summary(side: Side) -> dict[str, object]:
    return {"images": len(side.stems), "groups": len(set(side.groups)), "class_images": side.class_images}
