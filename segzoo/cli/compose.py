"""Compose and resolve a configuration outside of ``hydra.main``."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segzoo.cli.auto_data import replace_auto_data
from segzoo.cli.hydra_limits import yaml_error
from segzoo.config.checks.output import with_own_weights
from segzoo.registry import ConfigError
from segzoo.runs.config_diff import flatten
from segzoo.types import PlainDict

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # installed, or of a checkout
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException)
USER_CONFIGS = "command-line"  # name of the source that --config-dir adds
_MISSING = object()
_LOADED: dict[str, dict[str, bytes]] = {}  # pickled files, by source and path within it
_DEFAULTS: dict[str, bytes] = {}  # pickled, by command


@contextmanager
def hydra_composer(config_dir: str | None = None) -> Iterator[Hydra]:
    """Yield a Hydra that searches ``config_dir`` and ``conf/``.

    It checks each file of ``config_dir`` before it loads it, and only those that the configuration names. Hydra keeps it in a global
    variable, which is cleared before and after.
    """
    search_path = create_config_search_path(str(CONF))
    if config_dir:
        url = config_dir if "://" in config_dir else f"file://{Path(config_dir).resolve()}"
        search_path.prepend(provider=USER_CONFIGS, path=url)
    GlobalHydra.instance().clear()
    try:
        hydra = Hydra.create_main_hydra2(task_name="segzoo", config_search_path=search_path)
        for source in hydra.config_loader.get_sources():
            source.load_config = _load_once(source)  # type: ignore[method-assign]
        yield hydra
    finally:
        GlobalHydra.instance().clear()


def _load_once(source: ConfigSource) -> Callable[[str], ConfigResult]:
    """Return a loader that parses each file of a source once.

    Files of the package are parsed once in a process. Copies are made by pickle, which takes a third of the time of ``deepcopy``.
    """
    load, loaded = source.load_config, {} if source.provider == USER_CONFIGS else _LOADED.setdefault(source.full_path(), {})

    def load_once(config_path: str) -> ConfigResult:
        if config_path not in loaded:
            file = Path(source.path) / (config_path if config_path.endswith(".yaml") else f"{config_path}.yaml")
            if source.provider == USER_CONFIGS and file.is_file() and (error := yaml_error(file)):
                raise ConfigError(error)
            loaded[config_path] = pickle.dumps(load(config_path))
        return pickle.loads(loaded[config_path])  # Hydra changes what it loads

    return load_once


def compose(hydra: Hydra, command: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/<command>.yaml``, with Hydra's own settings below ``hydra``.

    The defaults of a command are composed once in a process, unless the user adds a directory of configs.

    Raises:
        HydraException, OmegaConfBaseException: an override cannot be applied.
        ConfigError: a file of the user is not valid.
    """

    def composed() -> DictConfig:
        return hydra.compose_config(command, list(overrides), RunMode.RUN, from_shell=False, with_log_configuration=False)

    if overrides or any(source.provider == USER_CONFIGS for source in hydra.config_loader.get_sources()):
        return composed()
    if command not in _DEFAULTS:
        _DEFAULTS[command] = pickle.dumps(composed())
    return pickle.loads(_DEFAULTS[command])


def to_dict(config: DictConfig) -> PlainDict:
    """Convert to plain containers, with interpolations unresolved."""
    return OmegaConf.to_container(config)  # type: ignore[return-value]


def resolve_config(config: DictConfig) -> tuple[PlainDict, PlainDict]:
    """Convert a composed configuration to plain containers.

    A leading ``~/`` or ``~user/`` of any text is replaced by that home directory, and ``data=auto`` by the settings that fit.

    Returns:
        The resolved configuration, and the same with ``${oc.env:...}`` unresolved. In the first, the checkpoint that a run resumes from
        stands for weight files that are missing by now.

    Raises:
        ConfigError: mandatory settings have no value, or ``data=auto`` has not been accepted.
    """
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    if missing := missing_keys(config):
        raise ConfigError([f"{key} has no value. Set it on the command line: {key}=<value>." for key in sorted(missing)])
    try:
        resolved = _expand_home(OmegaConf.to_container(own, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"a setting has no value: {str(error).splitlines()[0]}. Set it on the command line: key=value.") from None
    recorded = _keep_env_interpolations(resolved, OmegaConf.to_container(own))
    replace_auto_data(resolved, recorded)  # type: ignore[arg-type]
    return with_own_weights(resolved), recorded  # type: ignore[return-value,arg-type]


def default_config(command: str) -> PlainDict:
    """Compose the configuration of a command without overrides.

    Interpolations of the environment are unresolved.
    """
    running = GlobalHydra.instance()
    if running.is_initialized():  # within a tool, whose Hydra must stay
        return resolve_config(compose(running.hydra, command, []))[1]  # type: ignore[arg-type]
    with hydra_composer() as hydra:
        return resolve_config(compose(hydra, command, []))[1]


def missing_keys(config: DictConfig) -> set[str]:
    """Return the dotted keys of mandatory settings without a value."""
    own = {key: node for key, node in to_dict(config).items() if key != "hydra"}
    return {key for key, value in flatten(own).items() if value == "???"}


def _expand_home(node: object) -> object:
    if isinstance(node, dict):
        return {key: _expand_home(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_expand_home(item) for item in node]
    return os.path.expanduser(node) if isinstance(node, str) and re.match(r"~\w*(/|$)", node) else node


def _keep_env_interpolations(resolved: object, raw: object) -> object:
    if isinstance(raw, dict) and isinstance(resolved, dict):
        return {key: _keep_env_interpolations(resolved[key], node) for key, node in raw.items()}
    if isinstance(raw, list) and isinstance(resolved, list):
        return [_keep_env_interpolations(*pair) for pair in zip(resolved, raw, strict=True)]
    return raw if isinstance(raw, str) and "${oc.env:" in raw else resolved


def settings_of_swept_groups(
    command: str, hydra: Hydra, defaults: DictConfig, groups: Sequence[Override], values: Sequence[Override]
) -> set[str]:
    """Find the settings that only the options of swept groups have.

    Hydra composes a sweep without its swept groups before it starts the jobs, and rejects what it does not find there.

    Args:
        command: the tool's name.
        hydra: composes its configurations.
        defaults: the configuration without overrides.
        groups: overrides of groups.
        values: overrides of settings.
    """
    known = defaults.hydra.runtime.choices
    fixed = [str(override.input_line) for override in groups if not override.is_sweep_override() and override.key_or_group in known]
    config = compose(hydra, command, fixed) if fixed else defaults
    once = [override for override in (*groups, *values) if not override.is_sweep_override() and override.value() not in ("", None)]
    keys = [override.key_or_group for override in once if not override.key_or_group.startswith(("hydra/", "hydra."))]
    return {key for key in keys if OmegaConf.select(config, key, default=_MISSING) is _MISSING}
