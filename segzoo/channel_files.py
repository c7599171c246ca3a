"""Files that hold the channels of one image.

Each exported bundle contains a copy of this file next to that of ``channel_decoder``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segzoo.channel_decoder import NPY_SUFFIX
from segzoo.image_decoder import SUFFIXES, ImageError


def channel_files(path: Path, patterns: Sequence[str]) -> list[Path]:
    """Find the files that hold the channels of one image.

    Args:
        path: the file that the first pattern stands for, or one that holds all channels.
        patterns: those of ``data.images``, relative to any folder. The folder of ``{split}`` may be absent.

    Returns:
        The files in the order of the patterns, or the path alone if it does not match the first one.

    Raises:
        ImageError: a file is missing.
    """
    match = _path_regex(patterns[0]).fullmatch(path.absolute().as_posix()) if len(patterns) > 1 else None
    if match is None:
        return [path]
    split, files = match.groupdict().get("split"), [path]
    for pattern in patterns[1:]:
        below = pattern.replace("{split}/", f"{split}/" if split else "").replace("{split}", split or "")
        name = match["root"] + below.replace("{stem}", match["stem"])
        names = [name[:-2] + suffix for suffix in (*SUFFIXES, NPY_SUFFIX)] if name.endswith(".*") else [name]
        found = [Path(each) for each in names if Path(each).is_file()]
        if len(found) != 1:
            raise ImageError(
                f"is one of {len(patterns)} files of an image, of which {name} is missing{' or ambiguous' * bool(found)}."
            )
        files += found
    return files


def is_further_file(path: Path, patterns: Sequence[str]) -> bool:
    """Check whether another file stands for the image of this one."""
    first, *others = ([_path_regex(pattern).fullmatch(path.absolute().as_posix()) for pattern in patterns]) or [None]
    return first is None and any(others)


def _path_regex(pattern: str) -> re.Pattern:
    """Regex of the absolute paths that a pattern stands for."""
    text = re.escape(pattern.removesuffix(".*")) + (r"\.\w+" if pattern.endswith(".*") else "")
    text = re.sub(r"\\{split\\}/", "(?:(?P<split>[^/]+)/)?", text, count=1)
    text = re.sub(r"\\{split\\}", "[^/]+" if "<split>" in text else "(?P<split>[^/]+)", text, count=1)
    return re.compile(f"(?P<root>(?:.*/)?){text}".replace(r"\{stem\}", "(?P<stem>.+)").replace(r"\{split\}", "[^/]+"), re.DOTALL)
