"""Flags in any place, and words that are typed without a setting."""

from __future__ import annotations

import os
import re
import shlex
import sys
from argparse import Namespace

from hydra._internal.utils import get_args_parser

from segzoo.messages import format_override

MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def parse_arguments() -> Namespace:
    """Parse the command line of this process, with flags in any place.

    argparse rejects overrides on both sides of a flag, so ``sys.argv``, which Hydra parses again, is sorted: flags first.
    """
    parser = get_args_parser()
    arguments, unparsed = parser.parse_known_args()
    if not unparsed:
        return arguments
    arguments = parser.parse_intermixed_args()
    overrides, flags = list(arguments.overrides), []
    for word in sys.argv[1:]:
        if overrides and word == overrides[0]:
            overrides.pop(0)
        else:
            flags.append(word)
    sys.argv = [sys.argv[0], *flags, *arguments.overrides]
    return arguments


def name_positional_words() -> None:
    """Turn positional arguments of this process into overrides.

    ``runs/a runs/b mine.models:build`` becomes ``runs=[runs/a,runs/b] modules=[mine.models:build]``.
    """
    typed = parse_arguments().overrides
    words = [word for word in typed if ("=" not in word and not word.startswith("~")) or os.path.exists(word)]
    modules = [word for word in words if MODULE.fullmatch(word) and not os.path.exists(word)]
    paths = [word for word in words if word not in modules]
    for key, values in (("runs", paths), ("modules", modules)):
        if values and any(word.lstrip("+").startswith(f"{key}=") for word in typed):
            raise SystemExit(f"ConfigError: {key} is given twice, as {key}= and as {values[0]}. Give all of them in one way.")
    named = [format_override(key, values) for key, values in (("runs", paths), ("modules", modules)) if values]
    sys.argv = [word for word in sys.argv if word not in words] + [shlex.split(override)[0] for override in named]
