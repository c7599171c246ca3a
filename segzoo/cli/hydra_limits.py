"""Features of Hydra and sizes of YAML files that tools reject.

The features name Python objects to call, directories to search, or environment variables to set. A configuration is data: it runs nothing.
Through nested aliases, a few hundred bytes of YAML can expand to gigabytes, so a user's file is checked before it is loaded.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from segzoo.messages import format_override
from segzoo.types import PlainMapping

MAX_BYTES, MAX_VALUES = 1_000_000, 100_000  # more than any configuration needs
REJECTED = {  # setting -> reason
    "hydra.job_logging": "segzoo configures its own logging",
    "hydra.hydra_logging": "segzoo configures its own logging",
    "hydra.callbacks": "a configuration cannot run code",
    "hydra.searchpath": "configurations come from segzoo and from --config-dir",
    "hydra.job.env_set": "set environment variables in front of the command",
}
PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.", "optuna.")  # packages of launchers, sweepers and samplers
FLAGS = {"config_path": "--config-path", "config_name": "--config-name", "experimental_rerun": "--experimental-rerun"}


def flag_errors(arguments: Namespace) -> list[str]:
    """List flags of Hydra that would replace the configuration of the tool."""
    given = [flag for name, flag in FLAGS.items() if getattr(arguments, name, None) is not None]
    return [
        f"{flag} is not supported. Put your own configurations into a directory and add --config-dir <directory>." for flag in given
    ]


def rejected_key_error(key: str) -> str | None:
    """Describe why an override is rejected, else None.

    Args:
        key: a setting such as ``hydra.callbacks.x`` or a group such as ``hydra/job_logging``.
    """
    dotted = key.replace("/", ".")
    for setting, reason in REJECTED.items():
        if dotted == setting or dotted.startswith(f"{setting}."):
            return f"{key} cannot be set: {reason}."
    if dotted.startswith(("hydra.launcher.", "hydra.sweeper.")) and dotted.endswith("_target_"):
        group = "/".join(dotted.split(".")[:2])
        return f"{key} cannot be set: a configuration cannot run code. Choose an installed plugin: {group}=<name>."
    return None


def rejected_feature_errors(config: DictConfig, default: DictConfig) -> list[str]:
    """List rejected features that a composed configuration uses.

    They can come from a user's YAML file as well as from an override.

    Args:
        config: a composed configuration with its ``hydra`` section.
        default: the same without overrides and user files.
    """
    errors = []
    for setting, reason in REJECTED.items():
        if _plain(config, setting) != _plain(default, setting):
            errors.append(f"{setting} is set by a configuration file, but it cannot be set: {reason}. Remove it from the file.")
    for section in ("hydra.launcher", "hydra.sweeper"):
        foreign = [target for target in _targets(_plain(config, section)) if not str(target).startswith(PLUGINS)]
        errors += [
            f"{section} names {target}, which is not an installed plugin of Hydra. Remove it from the configuration file."
            for target in foreign
        ]
    return errors


def untyped_code_errors(config: PlainMapping, overrides: Sequence[str], sweep: bool) -> list[str]:
    """Reject code to run that was not typed on the command line.

    ``modules`` names functions to call. A file must not choose them, be it a configuration, the parameters of a sweep or an environment
    variable.

    Args:
        config: the resolved configuration of a job.
        overrides: the overrides of the job.
        sweep: whether a sweep has made the overrides.
    """
    modules = config.get("modules") or []
    typed = [override.lstrip("+").partition("=")[2] for override in overrides if override.lstrip("+").startswith("modules=")]
    if not modules:
        return []
    if sweep:
        return ["modules: it names code to run, which a sweep cannot. Run tools/compare.py without -m."]
    foreign = [module for module in modules if not typed or str(module) not in typed[-1]]
    return [f"modules: {module} is not on the command line. It names code to run: type it there, or omit it." for module in foreign]


def sweep_output_error(config: DictConfig) -> str | None:
    """Reject ``out`` in a sweep, whose jobs would share it."""
    out = OmegaConf.select(config, "out")
    if out is None:
        return None
    return f"out={out}: each job of a sweep has its own directory. Set the directory of the sweep: {format_override('hydra.sweep.dir', out)}"


def _plain(config: DictConfig, key: str) -> object:
    node = OmegaConf.select(config, key)
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node


def _targets(node: object) -> Iterator[object]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                yield value
            yield from _targets(value)
    elif isinstance(node, list):
        for item in node:
            yield from _targets(item)


def yaml_error(path: Path) -> str | None:
    """Describe why a YAML file cannot be loaded, else None.

    It may be too large, expand to too many values or not be valid YAML.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        return f"{path} has {size:,} bytes. A configuration file may have at most {MAX_BYTES:,}."
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return f"{path} is not valid YAML: {' '.join(str(error).split())}"
    count = _expanded_size(node, {}) if node else 0
    if count <= MAX_VALUES:
        return None
    return (
        f"{path} expands to {count:,} values through its aliases, but at most {MAX_VALUES:,} are allowed. Write it without aliases."
    )


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Count the values of a node, those behind aliases every time.

    A node that contains itself counts as too many.

    Args:
        node: the node.
        sizes: sizes of nodes that were counted before, by ``id``.
    """
    if id(node) not in sizes:
        sizes[id(node)] = MAX_VALUES + 1  # while its children are counted
        children = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        sizes[id(node)] = 1 + sum(_expanded_size(child, sizes) for child in children)
    return sizes[id(node)]
