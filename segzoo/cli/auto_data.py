"""Replacement of ``data=auto`` by the settings that fit its folder.

Checkpoints then hold those settings, and no tool guesses again for them.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from segzoo.io import write_text
from segzoo.messages import format_override
from segzoo.registry import ConfigError
from segzoo.types import DataError, PlainDict

CONFIG_DIR = Path("data_configs")  # for --config-dir


def replace_auto_data(config: PlainDict, recorded: PlainDict) -> None:
    """Replace the section ``data=auto`` in both forms of a configuration, in place.

    Sections with invalid settings are left to validation.

    Raises:
        ConfigError: the guess has not been accepted, or nothing in the folder fits.
    """
    data = config.get("data")
    if not isinstance(data, dict) or data.get("name") != "auto" or set(data) != {"name", "root", "accept"}:
        return
    if not isinstance(data["root"], str) or not isinstance(data["accept"], bool):
        return
    section, text = _guess(data["root"])
    if not data["accept"]:
        raise ConfigError(_propose(section["title"], text))
    config["data"] = section
    root = recorded["data"]["root"]
    recorded["data"] = section | ({"root": root} if "${oc.env:" in root else {})


@cache
def _guess(root: str) -> tuple[PlainDict, str]:
    from segzoo.data.guess.section import guess_section

    try:
        guess = guess_section(root)
    except DataError as error:
        raise ConfigError(str(error)) from error
    return guess.section, guess.yaml()


@cache
def _propose(title: str, text: str) -> str:
    """Describe a guess, and write it unless an edited one exists."""
    path = CONFIG_DIR / "data" / f"{title}.yaml"
    written = f"They were written to {path}"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        written = f"{path} exists and differs, and was not replaced"
    elif not path.exists() and os.access(".", os.W_OK):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return (
        f"data=auto guesses these settings:\n\n{text}\n{written}. Use them as they are with {format_override('data.accept', True)}, or edit the "
        f"file and use --config-dir {CONFIG_DIR} {format_override('data', title)}."
    )
