"""Lists of image paths, in a text file or on standard input."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from segzoo.inference.sources.kinds import STANDARD_INPUT
from segzoo.messages import printable
from segzoo.registry import ConfigError


def read_path_list(source: str) -> list[Path]:
    """Read paths, one per line, relative to the working directory.

    Blank lines and repeated paths are dropped.

    Args:
        source: a text file, or ``-`` for standard input, which is read to its end.

    Raises:
        ConfigError: there is no path, the list cannot be read, or none of the paths exists.
    """
    try:
        text = os.fsdecode(sys.stdin.buffer.read() if source == STANDARD_INPUT else Path(source).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"source={source} cannot be read: {error.strerror}. Expected a text file with one path per line."
        ) from None
    paths = [Path(line) for line in dict.fromkeys(line.strip() for line in text.removeprefix("\ufeff").splitlines()) if line]
    where = "standard input" if source == STANDARD_INPUT else source
    if not paths:
        raise ConfigError(f"source={source}: {where} holds no path. Expected one path of an image per line.")
    if not any(path.is_file() for path in paths):
        raise ConfigError(
            f"source={source}: none of the {len(paths)} paths exists, such as {printable(paths[0])}. Paths are relative to the working "
            f"directory, {printable(os.getcwd())}."
        )
    return paths
