"""Check the overrides of a command line before a job starts.

Hydra stops at the first override that it cannot apply, suggests no valid name, and recommends ``+key``, which would train with the
default without any warning. Here all overrides are checked and their errors collected. Nothing in this module imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from segzoo.cli.compose import COMPOSE_ERRORS, compose, hydra_composer, to_dict
from segzoo.cli.override_errors import group_error, value_error
from segzoo.cli.yaml_limits import find_oversized_yaml
from segzoo.runs.config_diff import flatten
from segzoo.types import PlainDict


@dataclass
class ParsedOverrides:
    """The errors of a command line and the configurations of its jobs.

    Attributes:
        errors: one line each.
        has_values: whether a setting is changed to a value that only the registries, and so torch, can check.
        jobs: the configuration of a run, or of each combination in a sweep.
        changed: ``key=value`` for each difference of the first job from the defaults.
    """

    errors: list[str] = field(default_factory=list)
    has_values: bool = False
    jobs: list[DictConfig] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


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
    if config_dir:
        parsed.errors += _config_dir_errors(config_dir)
        if parsed.errors:
            return parsed
    with hydra_composer(config_dir) as hydra:
        tokens = _tokenize(overrides, hydra.config_loader, parsed.errors)
        defaults = _compose(hydra, command, [], parsed.errors)
        if defaults is None:
            return parsed
        choices = to_dict(defaults.hydra.runtime.choices)
        groups, values = _check_groups(tokens, choices, hydra.config_loader, sweep, parsed.errors)
        selected = [_first_value(override) for override in groups]
        base = _compose(hydra, command, selected, parsed.errors) if selected else defaults
        if base is None:
            return parsed
        values = _check_values(values, to_dict(base), choices, parsed.errors)
        parsed.has_values = any(not override.is_hydra_override() for override in values)
        for job in _split_jobs(groups + values):
            config = base if job == selected else _compose(hydra, command, job, parsed.errors)
            if config is not None:
                parsed.jobs.append(config)
        if parsed.jobs:
            parsed.changed = list(_changes(defaults, base, parsed.jobs[0]))
    return parsed


def _config_dir_errors(config_dir: str) -> list[str]:
    if not Path(config_dir).is_dir():
        return [f"--config-dir {config_dir}: there is no such directory."]
    return find_oversized_yaml(Path(config_dir))


def _tokenize(overrides: Sequence[str], loader: ConfigLoader, errors: list[str]) -> list[Override]:
    """Parse overrides with Hydra's grammar and collect errors of invalid ones."""
    parser = OverridesParser.create(config_loader=loader)
    tokens = []
    for text in overrides:
        try:
            tokens.extend(parser.parse_overrides([text]))
        except HydraException:
            hint = "Write it as key=value." if "=" not in text else "Quote values with spaces, commas or brackets: 'key=\"a b\"'."
            errors.append(f"{text!r} cannot be parsed as an override. {hint}")
    return tokens


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
    overrides: Sequence[Override], choices: PlainDict, loader: ConfigLoader, sweep: bool, errors: list[str]
) -> tuple[list[Override], list[Override]]:
    """Check the overrides of groups.

    Returns:
        The valid overrides of groups, and the overrides of settings, which are not checked yet.
    """
    groups, values = [], []
    for override in overrides:
        options = loader.get_group_options(override.key_or_group, ObjectType.CONFIG)
        if override.is_sweep_override() and not sweep:
            errors.append(f"{override.input_line}: several values for a single run. Add -m to sweep over them, or quote the value.")
        elif override.key_or_group not in choices and not options:
            values.append(override)
        elif error := group_error(override, choices, options):
            errors.append(error)
        else:
            groups.append(override)
    return groups, values


def _check_values(overrides: Sequence[Override], config: PlainDict, choices: PlainDict, errors: list[str]) -> list[Override]:
    """Return the overrides of existing settings and collect errors for the others."""
    valid = []
    for override in overrides:
        if error := value_error(override, config, choices):
            errors.append(error)
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
    yield from (f"{group}={after[group]}" for group in after if after[group] != before.get(group))
    selected, current = (flatten({key: node for key, node in to_dict(config).items() if key != "hydra"}) for config in (base, job))
    yield from (f"{path}={value}" for path, value in current.items() if path not in selected or selected[path] != value)
