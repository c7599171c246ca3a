"""The words of a command line, read before anything runs: every misspelled one gets its nearest name and the valid values.

Hydra stops at the first word it cannot place, says neither what was meant nor what is valid, and advises ``+word``, which
would train the default in silence. Here all words are read at once and the errors collected. Nothing below imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segzoo.cli.yaml_limits import find_oversized_yaml
from segzoo.registry import did_you_mean, unknown_name_error
from segzoo.runs.config_diff import flatten

CONF = Path(str(files("segzoo.conf")))
# tables of Hydra's own that hold whatever a user puts there
FREE_FORM = ("hydra.sweeper.params", "hydra.job.env_set", "hydra.job_logging", "hydra.hydra_logging")
# launchers and sweepers, and the extra of ours that brings each
PLUGINS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "optuna": "optuna"}


@dataclass
class ParsedOverrides:
    """What a command line says: its errors, and the configurations of its jobs (one, or one a combination in a sweep)."""

    errors: list[str] = field(default_factory=list)
    has_values: bool = False  # a plain value stands on the line that only the registry can judge
    jobs: list[DictConfig] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


@contextmanager
def hydra_composer(*folders: str) -> Iterator[Hydra]:
    """A Hydra over ``conf/`` and the user's own folders, taken away again afterwards."""
    path = create_config_search_path(str(CONF))
    for folder in folders:
        path.prepend(provider="command-line", path=folder if "://" in folder else f"file://{Path(folder).resolve()}")
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2(task_name="segzoo", config_search_path=path)
    finally:
        GlobalHydra.instance().clear()


def parse_overrides(frame: str, words: Sequence[str], *, sweep: bool = False, config_dir: str | None = None) -> ParsedOverrides:
    """Reads ``words`` against ``conf/<frame>.yaml`` and reports everything that has no place there.

    Args:
        frame: the tool's frame, such as ``train``.
        words: the overrides of the command line.
        sweep: whether ``-m`` was given, so that a word may hold several values.
        config_dir: the user's own folder of configs, as ``--config-dir`` takes it.
    """
    found = ParsedOverrides()
    if config_dir and not Path(config_dir).is_dir():
        found.errors.append(f"--config-dir {config_dir}: there is no such folder.")
        return found
    if config_dir:
        found.errors += find_oversized_yaml(Path(config_dir))
        if found.errors:
            return found
    folders = [config_dir] if config_dir else []
    with hydra_composer(*folders) as hydra:
        loader = hydra.config_loader
        parsed = _parse(words, loader, found.errors)
        base = _compose(hydra, frame, [], found.errors)
        if base is None:
            return found
        choices = _table(base.hydra.runtime.choices)
        groups, values = [], []
        for word in parsed:
            if word.is_sweep_override() and not sweep:
                found.errors.append(f"{word.input_line}: several values in one run. Add -m to sweep over them, or quote the value.")
            elif _is_group(word, choices, loader):
                fault = _group_error(word, choices, loader)
                found.errors.append(fault) if fault else groups.append(word)
            else:
                values.append(word)
        picked = [_first(word) for word in groups]
        chosen = _compose(hydra, frame, picked, found.errors) if picked else base
        if chosen is None:
            return found
        tree = _table(chosen)
        good = []
        for word in values:
            fault = _value_error(word, tree, choices, loader)
            found.errors.append(fault) if fault else good.append(word)
        found.has_values = any(not word.is_hydra_override() for word in good)
        for job in _combinations(groups + good):
            config = chosen if job == picked else _compose(hydra, frame, job, found.errors)
            if config is not None:
                found.jobs.append(config)
        if found.jobs:
            found.changed = _differences(base, chosen, found.jobs[0])
    return found


def _parse(words: Sequence[str], loader: ConfigLoader, faults: list[str]) -> list[Override]:
    """The words Hydra's grammar understands; the others become errors."""
    parser = OverridesParser.create(config_loader=loader)
    parsed = []
    for word in words:
        try:
            parsed.extend(parser.parse_overrides([word]))
        except HydraException:
            hint = " Write it as key=value." if "=" not in word else " Quote values with spaces, commas or brackets: 'key=\"a b\"'."
            faults.append(f"{word!r} cannot be read as a setting.{hint}")
    return parsed


def _compose(hydra: Hydra, frame: str, words: list[str], faults: list[str]) -> DictConfig | None:
    """The composed configuration with Hydra's own part in it; a failure becomes an error without the advice to write ``+``."""
    try:
        return hydra.compose_config(frame, words, RunMode.RUN, from_shell=False, with_log_configuration=False)
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "+" not in line]
        fault = f"the configuration does not compose: {' '.join(lines)}"
        if fault not in faults:
            faults.append(fault)
        return None


def _is_group(word: Override, choices: dict[str, Any], loader: ConfigLoader) -> bool:
    return word.key_or_group in choices or bool(loader.get_group_options(word.key_or_group, ObjectType.CONFIG))


def _group_error(word: Override, choices: dict[str, Any], loader: ConfigLoader) -> str | None:
    """What is wrong with a word that picks a group's option, or None."""
    group = word.key_or_group
    options = loader.get_group_options(group, ObjectType.CONFIG)
    if group not in choices:
        return (
            f"{word.input_line}: this tool has no group {group!r}.{did_you_mean(group, choices)} Valid: {_flatten_words(choices)}."
        )
    if word.is_add() or word.is_force_add() or word.is_delete():
        return f"{word.input_line}: write {group}=<name>, without a prefix. Valid: {', '.join(options)}."
    if word.value() is None:
        return f"{word.input_line}: a group takes the name of an option. Leave the word away, or choose: {', '.join(options)}."
    picked = list(word.sweep_string_iterator()) if word.is_discrete_sweep() else [word.get_value_element_as_str()]
    wrong = [name for name in picked if name not in options]
    return " ".join(_unknown_option(group, name, options) for name in wrong) or None


def _unknown_option(group: str, name: str, options: list[str]) -> str:
    """The error line of an option that is not there; one that an extra of ours would bring names the extra."""
    if group in ("hydra/launcher", "hydra/sweeper") and name in PLUGINS:
        return f'{group}={name} needs a package that is not installed: pip install "segzoo[{PLUGINS[name]}]".'
    return unknown_name_error(group, name, options)


def _value_error(word: Override, tree: dict[str, Any], choices: dict[str, Any], loader: ConfigLoader) -> str | None:
    """What is wrong with a word that sets one value, or None. ``tree`` is the configuration it would change."""
    key = word.key_or_group
    if word.is_delete():
        return f"{word.input_line}: a setting cannot be taken away, only given another value: {key}=..."
    node, parts = tree, key.split(".")
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth])
        if here.startswith(FREE_FORM) or (depth and node == {}):
            return None
        if not isinstance(node, dict) or part not in node:
            return f"{word.input_line}: there is no setting {key!r}.{_hint(part, here, node, tree, choices)}"
        node = node[part]
    if word.is_add():
        return f"{word.input_line}: {key} is a setting already: write it without the '+'."
    return None


def _hint(part: str, here: str, node: Any, tree: dict[str, Any], choices: dict[str, Any]) -> str:
    """The nearest setting beside the misspelled one or, failing that, one of that name elsewhere; then the valid names here."""
    if not isinstance(node, dict):
        return f" {here} holds one value: write {here}=..."
    beside = [name for name in node if name != "name"] + (list(choices) if not here else [])
    beside = [name for name in beside if not name.startswith("hydra/") or here.startswith("hydra")]
    dotted = f"{here}." if here else ""
    elsewhere = [path for path in flatten(tree) if path.split(".")[-1] == part and not path.startswith("hydra.")]
    hint = f" Did you mean {elsewhere[0]!r}?" if elsewhere else did_you_mean(part, beside).replace("mean '", f"mean '{dotted}")
    return f"{hint} Valid{' below ' + here if here else ''}: {_flatten_words(beside)}."


def _flatten_words(names: Any) -> str:
    return ", ".join(sorted({name for name in names if not name.startswith("hydra/")}))


def _first(word: Override) -> str:
    if not word.is_discrete_sweep():
        return str(word.input_line)
    return f"{word.key_or_group}={next(iter(word.sweep_string_iterator()))}"


def _combinations(words: list[Override]) -> list[list[str]]:
    """The words of each job: one list for a plain run, one a combination for a sweep over listed values."""
    if any(word.is_sweep_override() and not word.is_discrete_sweep() for word in words):
        return []  # an interval: only the sweeper knows its values, so each job checks itself
    return BasicSweeper.split_arguments(words, max_batch_size=None)[0]


def _table(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config)  # type: ignore[return-value]


def _differences(base: DictConfig, chosen: DictConfig, final: DictConfig) -> list[str]:
    """``key=value`` for what ``final`` has other than the defaults: options picked, then values beside those options' own."""
    before, after = base.hydra.runtime.choices, final.hydra.runtime.choices
    picked = [f"{group}={after[group]}" for group in after if after[group] != before.get(group)]
    plain, own = _table(final), _table(chosen)
    default = flatten({key: node for key, node in own.items() if key != "hydra"})
    values = flatten({key: node for key, node in plain.items() if key != "hydra"})
    return picked + [f"{path}={value}" for path, value in values.items() if path not in default or default[path] != value]
