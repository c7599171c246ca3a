"""Files that hold the channels of one image.

Each exported bundle contains a copy of this file next to that of ``channel_decoder``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
    problem = None
    for names in _other_names(path, patterns[0], patterns[1:]) if len(patterns) > 1 else ():
        found = {name: _existing(name) for name in names}
        if all(len(files) == 1 for files in found.values()):
            return [path, *(files[0] for files in found.values())]
        if problem is None:
            name, files = next((name, files) for name, files in found.items() if len(files) != 1)
            missing = f"missing{' or ambiguous' * bool(files)}"
            problem = f"is one of {len(patterns)} files of an image, of which {name} is {missing}."
    if problem is not None:
        raise ImageError(problem)
    return [path]


def is_further_file(path: Path, patterns: Sequence[str]) -> bool:
    """Check whether another file stands for the image of this one."""
    if len(patterns) < 2:
        return False
    firsts = [name for pattern in patterns[1:] for (name,) in _other_names(path, pattern, patterns[:1])]
    is_first = next(_other_names(path, patterns[0], ()), None) is not None
    return any(_existing(name) for name in firsts) if is_first else bool(firsts)


def _other_names(path: Path, pattern: str, others: Sequence[str]) -> Iterator[list[str]]:
    """Name the other files of an image.

    Yields:
        A name for each of ``others``, which may end in ``.*``. There may be several ways to read the path as ``pattern``: with the folder of
        ``{split}`` or without it, and below any of its folders, the deepest first.
    """
    text = path.absolute().as_posix()
    ends = [match.end() for match in re.finditer("/", text)][::-1] or [0]
    for read in dict.fromkeys((pattern, pattern.replace("{split}/", "", 1))):
        regex = _path_regex(read)
        for match in filter(None, (regex.fullmatch(text, end) for end in ends)):
            split, root = match.groupdict().get("split"), text[: match.start()]
            below = [name if read == pattern and split else name.replace("{split}/", "") for name in others]
            yield [root + name.replace("{split}", split or "").replace("{stem}", match["stem"]) for name in below]


def _existing(name: str) -> list[Path]:
    """Find the files of a name, with its suffix in any case."""
    start = Path(name.removesuffix(".*"))
    suffixes = (*SUFFIXES, NPY_SUFFIX) if name.endswith(".*") else [start.suffix]
    base = str(start) if name.endswith(".*") else str(start)[: len(str(start)) - len(start.suffix)]
    variants = [dict.fromkeys((suffix, suffix.lower(), suffix.upper(), suffix.title())) for suffix in suffixes]
    found = [next((file for end in ends if (file := Path(base + end)).is_file()), None) for ends in variants]
    return [file for file in found if file is not None]


def _path_regex(pattern: str) -> re.Pattern:
    """Regex of the paths that a pattern stands for, in its folder."""
    suffix = re.search(r"\.\w+$|\.\*$|$", pattern)[0]  # type: ignore[index]
    text = re.escape(pattern.removesuffix(suffix)) + (r"\.\w+" if suffix == ".*" else f"(?i:{re.escape(suffix)})")
    text = text.replace(r"\{split\}", "(?P<split>[^/]+)", 1).replace(r"\{split\}", "[^/]+")
    return re.compile(text.replace(r"\{stem\}", "(?P<stem>.+)", 1).replace(r"\{stem\}", "(?P=stem)"), re.DOTALL)
