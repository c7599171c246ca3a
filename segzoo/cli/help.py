"""Text of ``--help``: the config groups of a tool and its settings.

Imports no torch and lists options by file name. Hydra's own help reads every file of every group twice, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from segzoo.cli.compose import COMPOSE_ERRORS, CONF, compose, hydra_composer
from segzoo.config.sections import LIST_SECTIONS
from segzoo.registry import ConfigError


def help_text(command: str, description: str, overrides: Sequence[str], config_dir: str | None = None) -> str:
    """Write the help of a tool, with the given overrides applied.

    Args:
        command: the tool's name, such as ``train``.
        description: one or more lines about the tool.
        overrides: the overrides of the command line.
        config_dir: a directory with the user's own configs.

    Raises:
        ConfigError: the configuration cannot be composed.
    """
    with hydra_composer(config_dir) as hydra:
        try:
            config = compose(hydra, command, overrides)
        except COMPOSE_ERRORS as error:
            message = str(error).splitlines()[0]
            raise ConfigError(f"--help: {message}. Run --help without overrides to list all groups and settings.") from None
    chosen = [
        *config.hydra.runtime.choices,
        *(section for section in LIST_SECTIONS if section in config),
    ]  # not among choices if a list
    groups = dict.fromkeys(str(group) for group in chosen if "/" not in str(group) and group != "hydra")
    directories = [CONF, *([Path(config_dir)] if config_dir else [])]
    options = {group: sorted({path.stem for root in directories for path in (root / group).glob("*.yaml")}) for group in groups}
    lines = [description.strip(), ""]
    if options:
        lines += ["Groups, selected with group=option:"]
        lines += [*(f"  {group}: {', '.join(names)}" for group, names in sorted(options.items())), ""]
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    lines += ["Settings, changed with key=value:", *(f"  {line}" for line in OmegaConf.to_yaml(own).splitlines())]
    lines += ["", _where_explained(command, list(options))]
    return "\n".join([*lines, "-m sweeps over lists of values. --hydra-help lists Hydra's own flags.", ""])


def _where_explained(command: str, groups: Sequence[str]) -> str:
    """Name the files whose comments explain the settings."""
    here = Path.cwd()
    conf = CONF.relative_to(here) if CONF.is_relative_to(here) else CONF
    text = f"{conf}/{command}.yaml explains each setting"
    if not groups:
        return f"{text}."
    more = " action=convert --help lists the settings of that action, and so for each action." if "action" in groups else ""
    return f"{text}; {conf}/<group>/<option>.yaml those of a group.{more}"
