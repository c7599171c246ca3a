"""Checks of the paths of data sets and conversions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from segzoo.config.presets import preset_names
from segzoo.io import file_name
from segzoo.messages import relative_to
from segzoo.registry import ConfigError
from segzoo.types import DataError, PlainMapping


def location_errors(config: PlainMapping) -> list[str]:
    """List the errors of the location of a data set.

    Invalid settings of the data set come first. Without any, one split after the other is located; no image is opened.
    """
    data = config.get("data")
    if not isinstance(data, Mapping) or not isinstance(root := data.get("root"), str):
        return []
    if os.path.isdir(root) and not data.get("lists"):
        return []
    if "name" not in data:
        return [] if os.path.isdir(root) else [f"data.root={root}: there is no such directory."]
    from segzoo.config.build import build_data
    from segzoo.config.sections import section_errors
    from segzoo.data.paired_dataset import PairedDataset

    if errors := section_errors("data", data):
        return errors
    try:
        for split in ("train", "val") if "steps" in config else (config.get("split") or ("all" if "action" in config else "val"),):
            dataset = build_data(data, split)
            if isinstance(dataset, PairedDataset):
                dataset.check_location()
    except DataError as error:
        return [str(error)]
    except ConfigError as error:
        return error.errors
    return []


def conversion_errors(config: PlainMapping) -> list[str]:
    """List the errors in the paths and the title of ``action=convert``.

    Args:
        config: the configuration of tools/dataset.py.
    """
    action, errors = config.get("action"), []
    if config.get("data") is not None:
        errors.append("data=: action=convert creates a data set. Omit data=.")
    if not isinstance(action, Mapping) or not isinstance(source := action.get("source"), str):
        return errors  # reported with the type
    top, out = Path(source).expanduser(), config.get("out")
    if not top.exists():
        errors.append(f"action.source={source}: there is no such file or folder{relative_to(source)}.")
    root = action.get("image_root")
    if isinstance(root, str) and not Path(root).expanduser().is_dir():
        errors.append(f"action.image_root={root}: there is no such folder{relative_to(root)}.")
    for key, folder in (("source", source), ("image_root", root)):
        if isinstance(out, str) and isinstance(folder, str) and _overlap(Path(out), Path(folder).expanduser(), key == "source"):
            errors.append(
                f"out={out}: lies in action.{key}={folder}, or contains it. Set another out: originals are never touched."
            )
    title = conversion_title(source, action.get("title"))
    if title in preset_names("data"):
        errors.append(f"the title {title!r} is that of another data set, which data={title} means. Set action.title=my_{title}.")
    return errors


def _overlap(out: Path, read: Path, also_below: bool) -> bool:
    """True if ``out`` is a folder, contains it or lies below it."""
    out, read = out.resolve(), read.resolve()
    return out == read or out in read.parents or (also_below and read in out.parents)


def conversion_title(source: str, title: object) -> str:
    """Name of a converted data set, by default that of its source."""
    path = Path(source).expanduser().resolve()
    return file_name(title if isinstance(title, str) else path.name if path.is_dir() else path.stem)
