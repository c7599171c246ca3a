"""Check the overrides of a command line before a job starts.

Hydra stops at the first override that it cannot apply, suggests no valid name, and recommends ``+key``, which would train with the
default without any warning. Here all overrides are checked and their errors collected. Nothing in this module imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from segzoo.cli.compose import COMPOSE_ERRORS, CONF, compose, hydra_composer, settings_of_swept_groups, to_dict
from segzoo.cli.hydra_limits import rejected_feature_errors, rejected_key_error, sweep_output_error
from segzoo.cli.override_errors import group_error, lost_brace_errors, value_error, word_hint
from segzoo.config.commands import COMMANDS
from segzoo.config.sections import LIST_SECTIONS
from segzoo.messages import format_override
from segzoo.registry import ConfigError
from segzoo.runs.config_diff import flatten
from segzoo.types import PlainDict


@dataclass
class ParsedOverrides:
    """The errors of a command line and the configurations of its jobs.

    Attributes:
        errors: one line each.
        rejected: keys of overrides with an error. Errors that follow from them are not reported.
        jobs: the configuration of a run, or of each combination in a sweep.
        changed: ``key=value`` for each difference of the first job from the defaults.
        added: keys of a section that is null because a checkpoint provides it.
        from_swept_groups: keys that only the options of a swept group bring.
    """

    errors: list[str] = field(default_factory=list)
    rejected: set[str] = field(default_factory=set)
    jobs: list[DictConfig] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    added: set[str] = field(default_factory=set)
    from_swept_groups: set[str] = field(default_factory=set)

    def for_hydra(self, override: str) -> str:
        """Rewrite an override that Hydra would reject although it is valid.

        Hydra composes a sweep without its swept groups first, and fails at settings that only these bring. A choice of one is swept too.
        """
        key, equal, value = override.lstrip("+").partition("=")
        if equal and key in self.from_swept_groups:
            return f"{key}=choice({value})"
        return f"++{override.lstrip('+')}" if key in self.added else override

    def reject(self, key: str, error: str) -> None:
        """Add the error of an override."""
        self.rejected.add(key)
        self.errors.append(error)


def parse_overrides(
    command: str, overrides: Sequence[str], *, sweep: bool = False, config_dir: str | None = None
) -> ParsedOverrides:
    """Check overrides against ``conf/<command>.yaml`` and compose the jobs.

    Args:
        command: the tool's name, such as ``train``.
        overrides: the overrides of the command line.
        sweep: whether ``-m`` was given, so that an override may list several values.
        config_dir: a directory with the user's own configs, as ``--config-dir`` takes it.
    """
    parsed = ParsedOverrides()
    if config_dir and not Path(config_dir).is_dir():
        parsed.errors.append(f"--config-dir {config_dir}: there is no such directory.")
        return parsed
    try:
        with hydra_composer(config_dir) as hydra:
            _compose_jobs(command, overrides, sweep, hydra, parsed)
    except ConfigError as error:
        parsed.errors += error.errors
    return parsed


def _compose_jobs(command: str, overrides: Sequence[str], sweep: bool, hydra: Hydra, parsed: ParsedOverrides) -> None:
    """Fill in the errors, jobs and changes of a command line."""
    defaults = _compose(hydra, command, [], parsed.errors)
    if defaults is None:
        return
    choices = to_dict(defaults.hydra.runtime.choices)
    known = choices | {section: choices.get(section) for section in COMMANDS[command].from_checkpoint}
    tokens = _tokenize(overrides, known, to_dict(defaults), hydra, parsed)
    groups, values = _check_groups(tokens, known, hydra.config_loader, sweep, parsed)
    if "backbone" not in choices and {override.key_or_group for override in groups} & {"backbone", "model"} == {"backbone"}:
        parsed.reject("backbone", "backbone=: a backbone belongs to a model. Set model=<name> too, or omit backbone=.")
        return
    selected = [_first_value(override) for override in groups]
    base = _compose(hydra, command, selected, parsed.errors) if selected else defaults
    if base is None:
        return
    values = _check_values(values, to_dict(base), choices, parsed)
    if "data" in COMMANDS[command].from_checkpoint and "data" not in base:
        parsed.added = {override.key_or_group for override in values if override.key_or_group.startswith("data.")}
    for job in _split_jobs(groups + values):
        overrides = [parsed.for_hydra(override) for override in job]
        config = base if job == selected else _compose(hydra, command, overrides, parsed.errors)
        if config is not None:
            parsed.jobs.append(config)
    if any(override.is_sweep_override() for override in groups):
        parsed.from_swept_groups = settings_of_swept_groups(command, hydra, defaults, groups, values)
    for config in parsed.jobs or [base]:
        parsed.errors += rejected_feature_errors(config, defaults)
        parsed.errors += [error] if sweep and (error := sweep_output_error(config)) else []
    if parsed.jobs:
        parsed.changed = list(_changes(defaults, base, parsed.jobs[0]))


def _tokenize(words: Sequence[str], groups: PlainDict, config: PlainDict, hydra: Hydra, parsed: ParsedOverrides) -> list[Override]:
    """Parse overrides with Hydra's grammar and collect errors of invalid ones."""
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    tokens = []
    for text in words:
        key, equal, value = text.partition("=")
        try:
            tokens.extend(parser.parse_overrides([text]))
        except HydraException:
            options = {group: hydra.config_loader.get_group_options(group, ObjectType.CONFIG) for group in groups}
            hint = f"Quote the value: {_quoted(key, value)}" if equal else word_hint(text, options, config)
            parsed.reject(key, f"{text} cannot be parsed as an override. {hint}")
    return tokens


def _quoted(key: str, value: str) -> str:
    """Quote a value, or the items of a list, for Hydra's grammar."""
    items: object = None
    if value.startswith(("[", "{")):
        try:
            items = yaml.safe_load(value)
        except yaml.YAMLError:
            items = None
    return format_override(key, items if isinstance(items, list | dict) else value)


def _compose(hydra: Hydra, command: str, overrides: list[str], errors: list[str]) -> DictConfig | None:
    """Compose a configuration, or return None and collect the error.

    Lines of Hydra's message that recommend ``+key`` are left out.
    """
    try:
        return compose(hydra, command, overrides)
    except COMPOSE_ERRORS as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "+" not in line]
        message = f"the configuration cannot be composed: {' '.join(lines)}"
        if message not in errors:
            errors.append(message)
        return None


def _check_groups(
    overrides: Sequence[Override], choices: PlainDict, loader: ConfigLoader, sweep: bool, parsed: ParsedOverrides
) -> tuple[list[Override], list[Override]]:
    """Check the overrides of groups.

    Returns:
        The valid overrides of groups, and the overrides of settings, which are not checked yet.
    """
    groups, values = [], []
    for override in overrides:
        key = override.key_or_group
        options = loader.get_group_options(key, ObjectType.CONFIG)
        if error := rejected_key_error(key):
            parsed.reject(key, error)
        elif override.is_sweep_override() and not sweep:
            parsed.reject(key, _several_values_error(override))
        elif key not in choices and not options:
            values.append(override)
        elif error := group_error(override, choices, options):
            parsed.reject(key, error)
        else:
            groups.append(override)
    return groups, values


def _several_values_error(override: Override) -> str:
    key = override.key_or_group
    if key in LIST_SECTIONS and override.is_discrete_sweep():
        hint = (
            f"Write a list to use all of them, {format_override(key, list(override.sweep_string_iterator()))}, or add -m to sweep."
        )
    else:
        hint = "Add -m to sweep over them, or quote the value."
    return f"{override.input_line}: several values for a single run. {hint}"


def _check_values(overrides: Sequence[Override], config: PlainDict, choices: PlainDict, parsed: ParsedOverrides) -> list[Override]:
    """Return the overrides of existing settings and collect errors for the others.

    The settings of a rejected group are unknown, so they are left out.
    """
    lost = lost_brace_errors(overrides)
    valid = []
    for override in overrides:
        key = override.key_or_group
        if key in parsed.rejected or any(key.startswith(f"{name.replace('/', '.')}.") for name in parsed.rejected):
            continue
        if error := lost.get(key) or value_error(override, config, choices):
            parsed.reject(key, error)
        else:
            valid.append(override)
    return valid


def _first_value(override: Override) -> str:
    """Return the override with the first of its values."""
    if not override.is_discrete_sweep():
        return str(override.input_line)
    return f"{override.key_or_group}={next(iter(override.sweep_string_iterator()))}"


def _split_jobs(overrides: list[Override]) -> list[list[str]]:
    """Return the overrides of each job.

    In a sweep there is one job per combination of listed values. Only the sweeper knows the values of an interval, so a sweep over one
    has no jobs here, and each job is checked when it starts.
    """
    if any(override.is_sweep_override() and not override.is_discrete_sweep() for override in overrides):
        return []
    return BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]


def _changes(defaults: DictConfig, base: DictConfig, job: DictConfig) -> Iterator[str]:
    """Yield ``key=value`` for each difference of a job from the defaults.

    Groups come first, then values that differ from those of the selected options.

    Args:
        defaults: the configuration without overrides.
        base: the configuration with the groups of the command line alone.
        job: the configuration with all overrides.
    """
    before, after = defaults.hydra.runtime.choices, job.hydra.runtime.choices
    for group in after:
        is_file = group != "recipe" or (CONF / group / f"{after[group]}.yaml").exists()  # few data sets have one
        if after[group] != before.get(group) and is_file:
            yield f"{group}={after[group]}"
    lists = [
        group for group in LIST_SECTIONS if group in before and group not in after
    ]  # Hydra lists no group with several options
    yield from (format_override(group, list(job[group])) for group in lists)
    selected, current = (flatten({key: node for key, node in to_dict(config).items() if key != "hydra"}) for config in (base, job))
    yield from (f"{path}={value}" for path, value in current.items() if path not in selected or selected[path] != value)
