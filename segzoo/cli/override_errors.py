"""Error messages for overrides that name an unknown group, option or setting.

Each message says what was set, what is valid and, where a name is close, what was probably meant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.config.sections import LIST_SECTIONS, SECTIONS
from segzoo.messages import did_you_mean, format_override, unknown_name_error
from segzoo.runs.config_diff import flatten
from segzoo.types import PlainDict, PlainMapping

FREE_FORM = ("hydra.sweeper.params",)  # tables with any key
EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "optuna": "optuna"}  # plugin -> extra of segzoo


def group_error(override: Override, choices: PlainMapping, options: list[str]) -> str | None:
    """Check an override that selects an option of a config group.

    Args:
        override: such as ``model=pspnet``.
        choices: the groups of the tool, each with its default option.
        options: the options of the override's group.

    Returns:
        The error, or None.
    """
    group, text = override.key_or_group, override.input_line
    if group not in choices:
        return f"{text}: this tool has no group {group!r}.{did_you_mean(group, choices)} Valid: {_join_names(choices)}."
    if override.is_add() or override.is_force_add() or override.is_delete():
        return f"{text}: write {group}=<name>, without a prefix. Valid: {', '.join(options)}."
    if override.value() is None:
        return f"{text}: a group takes the name of an option. Omit it, or choose one of: {', '.join(options)}."
    given = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else [override.get_value_element_as_str()]
    names = [name for choice in given for name in _listed_names(group, choice)]
    return " ".join(unknown_option_error(group, name, options) for name in names if name not in options) or None


def _listed_names(group: str, choice: str) -> list[str]:
    """Split ``[tensorboard,mlflow]``, which only some groups take."""
    is_list = group in LIST_SECTIONS and choice.startswith("[")
    return re.split(r"\s*,\s*", choice.strip("[ ]")) if is_list else [choice]


def unknown_option_error(group: str, name: str, options: list[str]) -> str:
    """Describe an unknown option.

    For a plugin that is not installed, names the extra that installs it; for a part without its YAML, the file that is missing; for a
    data set, the flag that finds the user's own.
    """
    if group in ("hydra/launcher", "hydra/sweeper") and name in EXTRAS:
        return f'{group}={name} needs a package that is not installed: pip install "segzoo[{EXTRAS[name]}]".'
    if group in SECTIONS and (code := _builder_file(group, name)):
        return f"{group}={name}: {code} has no YAML. Write conf/{group}/{name}.yaml with every keyword-only parameter of {name}."
    own = " A data set written by action=convert, action=split or data=auto needs --config-dir <its folder>/conf."
    return unknown_name_error(group, name, options) + (own if group == "data" else "")


def _builder_file(group: str, name: str) -> Path | None:
    """Find the file of a part by its name, without importing it."""
    path = Path(*SECTIONS[group].module.split("."), f"{name}.py")
    file = Path(__file__).parents[2] / path
    is_builder = (
        name.isidentifier() and file.exists() and re.search(rf"^(def|class) {name}\b", file.read_text(encoding="utf-8"), re.M)
    )
    return path if is_builder else None


def word_hint(word: str, options: Mapping[str, list[str]], config: PlainMapping) -> str:
    """Suggest what a word without ``=`` stands for.

    Args:
        word: may be an option of a group, a network, or a path with images.
        options: the options of each group of the tool.
        config: the default configuration of the tool.
    """
    likely = [f"{group}={word}" for group, names in options.items() if word in names and "/" not in group]
    if os.path.exists(word):
        is_network = os.path.isdir(os.path.join(word, "checkpoints")) or find_exported_file(word) or word.endswith(".safetensors")
        key = "ckpt" if is_network else "source"
        likely += [format_override(key, word)] if key in config else []
    return f"Did you mean {' or '.join(likely)}?" if likely else "Write it as key=value."


def lost_brace_errors(overrides: Sequence[Override]) -> dict[str, str]:
    """Find mappings that the shell has expanded to several overrides.

    bash turns ``data.label_map={0:0,255:1}`` into ``data.label_map=0:0 data.label_map=255:1``, of which the last one would win.

    Returns:
        Key -> error.
    """
    entries: dict[str, list[str]] = {}
    for override in overrides:
        if isinstance(value := override.value(), str):
            entries.setdefault(override.key_or_group, []).append(value)
    errors = {}
    for key, values in entries.items():
        if len(values) > 1 and all(re.fullmatch(r"[^:]+:[^:]+", value) for value in values):
            quoted = f"'{key}={{{','.join(values)}}}'"
            errors[key] = (
                f"{key} is set {len(values)} times: {', '.join(values)}. Did the shell take the braces? Put the override in single quotes: {quoted}"
            )
    return errors


def value_error(override: Override, config: PlainDict, choices: PlainMapping) -> str | None:
    """Check that an override sets an existing setting.

    Args:
        override: such as ``optim.lr=0.1``.
        config: the composed configuration that it changes.
        choices: the groups of the tool.

    Returns:
        The error, or None.
    """
    key = override.key_or_group
    if override.is_delete():
        return f"{override.input_line}: a setting cannot be removed, only changed: {key}=..."
    node, path = config, key.split(".")
    if len(path) > 1 and path[0] == "data" and "data" in choices and "data" not in config:
        return None  # checked against the data section of the checkpoint
    for depth, name in enumerate(path):
        parent = ".".join(path[:depth])
        if parent.startswith(FREE_FORM) or (depth and node == {}):
            return None
        if isinstance(node, dict) and any(isinstance(entry, int) for entry in node):
            entries = {**node, int(name): override.value()} if name.isdecimal() else node
            hint = format_override(parent, entries)
            return (
                f"{override.input_line}: the keys of {parent} are integers, which cannot be set one by one. Set all of them: {hint}"
            )
        if not isinstance(node, dict) or name not in node:
            return f"{override.input_line}: there is no setting {key!r}.{_setting_hint(name, parent, node, config, choices)}"
        node = node[name]
    if override.is_add():
        return f"{override.input_line}: {key} is already a setting: write it without the '+'."
    return None


def _setting_hint(name: str, parent: str, node: object, config: PlainDict, choices: PlainMapping) -> str:
    """Suggest a setting for an unknown key and list the valid names.

    A setting of the same name elsewhere is suggested first, then the closest one below ``parent``.

    Args:
        name: the unknown part of the key.
        parent: the part of the key in front of it, empty at the top level.
        node: the value at ``parent``.
        config: the whole configuration.
        choices: the groups of the tool, which are valid names at the top level.
    """
    if not isinstance(node, dict):
        return f" {parent} holds a single value: write {parent}=..."
    siblings = [key for key in node if key != "name"] + (list(choices) if not parent else [])
    siblings = [key for key in siblings if not key.startswith("hydra/") or parent.startswith("hydra")]
    elsewhere = [path for path in flatten(config) if path.split(".")[-1] == name and not path.startswith("hydra.")]
    if elsewhere:
        suggestion = f" Did you mean {elsewhere[0]!r}?"
    else:
        prefix = f"{parent}." if parent else ""
        suggestion = did_you_mean(name, siblings).replace("mean '", f"mean '{prefix}")
    return f"{suggestion} Valid{' below ' + parent if parent else ''}: {_join_names(siblings)}."


def _join_names(names: Iterable[str]) -> str:
    return ", ".join(sorted({name for name in names if not name.startswith("hydra/")}))
