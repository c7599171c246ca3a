"""YAML files of data sets that an action has prepared."""

from __future__ import annotations

from pathlib import Path

import yaml

from segzoo.io import write_text
from segzoo.types import PlainMapping


class _Dumper(yaml.SafeDumper):
    """Writer of strings that no reader takes for numbers, booleans or interpolations."""


def _quote(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text.replace("${", "\\${"), style='"')


_Dumper.add_representer(str, _quote)


def write_data_config(path: Path, section: PlainMapping, comment: str) -> None:
    """Write a ``data`` section as a YAML file for ``--config-dir``.

    Args:
        path: the file, in a directory named ``data``, which is created.
        section: the section with its name, in plain containers.
        comment: one line about its origin.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{key}: {_flow(value)}" for key, value in section.items()]
    write_text(path, "\n".join([f"# {comment}", *lines]) + "\n")


def _flow(value: object) -> str:
    return (
        yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=float("inf"))
        .removesuffix("\n...\n")
        .strip()
    )
