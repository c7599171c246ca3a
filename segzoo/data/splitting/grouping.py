"""Groups of images that a split must not divide."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from segzoo.data.near_duplicates import near_duplicate_groups, thumbnail
from segzoo.data.splitting.patterns import group_pattern_error
from segzoo.messages import format_override, printable
from segzoo.progress import with_progress
from segzoo.registry import ConfigError
from segzoo.resources import cpu_cores
from segzoo.types import DataError, Dataset
from segzoo.visualization.drawing import shown_rgb


def group_names(stems: Iterable[str], pattern: str | None, key: str = "data.group_by") -> list[str]:
    """Name the group of each image.

    Args:
        stems: stems of the images.
        pattern: regular expression that is searched in the stem. What its parentheses match is the name of the group, joined by ``/`` if
            there are several. None makes every image a group of its own.
        key: the setting that holds the pattern, for messages.

    Raises:
        ConfigError: the pattern is no regular expression with parentheses.
        DataError: it is not found in some stems.
    """
    stems = list(stems)
    if pattern is None:
        return stems
    if error := group_pattern_error(key, pattern):
        raise ConfigError(error)
    regex = re.compile(pattern, re.DOTALL)
    matches = [regex.search(stem) for stem in stems]
    names = ["/".join(part for part in match.groups() if part) if match else "" for match in matches]
    unnamed = [stem for stem, name in zip(stems, names, strict=True) if not name]
    if unnamed:
        listed = ", ".join(printable(stem) for stem in unnamed[:5]) + (", ..." if len(unnamed) > 5 else "")
        raise DataError(
            f"{key}={pattern!r} finds no group in {len(unnamed)} of {len(stems)} names: {listed}. Every name needs one: add an alternative "
            f"for these, such as {format_override(key, f'^.*?(?:{pattern})|^(.*)$')}, which makes each of them a group of its own."
        )
    return names


def join_groups(names: Sequence[str], linked: Iterable[Sequence[int]]) -> list[str]:
    """Join the groups of images that are linked.

    Args:
        names: name of the group of each image.
        linked: indices of images that belong together.

    Returns:
        Name of the group of each image. A joined group has the first of its names in alphabetical order.
    """
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for indices in linked:
        first, *others = sorted({root(names[index]) for index in indices})
        parent |= dict.fromkeys(others, first)
    return [root(name) for name in names]


def find_near_duplicates(images: Dataset) -> list[list[int]]:
    """Find images that look the same.

    All of them are read, on all cores.

    Returns:
        Indices of each group of two or more images, as ``near_duplicate_groups``.

    Raises:
        DataError: an image cannot be read.
    """
    with ThreadPoolExecutor(cpu_cores()) as pool:
        thumbnails = pool.map(
            lambda index: thumbnail(shown_rgb(images.image(index), images.info.show_channels)), range(len(images))
        )
        found = list(with_progress(thumbnails, len(images), "images", "comparing images"))
    return near_duplicate_groups(np.stack(found))
