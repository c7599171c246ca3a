"""What ``--help`` answers: the groups of a tool with their options, and every setting as it stands. Loads neither torch nor all files.

Hydra's own answer reads each file of each group twice, which takes seconds by now.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segzoo.cli.overrides import CONF, hydra_composer
from segzoo.registry import ConfigError


def help_text(frame: str, what: str, words: Sequence[str], config_dir: str | None = None) -> str:
    """The answer to ``--help`` with the given overrides.

    Args:
        frame: the tool's frame, such as ``train``.
        what: what the tool does, in a line or more.
        words: overrides on the command line; they are shown in effect.
        config_dir: the user's own folder of configs.

    Raises:
        ConfigError: the words do not compose.
    """
    with hydra_composer(*([config_dir] if config_dir else [])) as hydra:
        try:
            config = hydra.compose_config(frame, list(words), RunMode.RUN, from_shell=False, with_log_configuration=False)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(f"--help: {str(error).splitlines()[0]}. Ask without words to see what there is.") from None
    groups = [str(group) for group in config.hydra.runtime.choices if "/" not in str(group) and group != "hydra"]
    folders = [CONF, *([Path(config_dir)] if config_dir else [])]
    options = {group: sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")}) for group in groups}
    lines = [what.strip(), "", "Groups, chosen by group=option:"]
    lines += [f"  {group}: {', '.join(names)}" for group, names in sorted(options.items())]
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    lines += ["", "Settings, changed by key=value:", *(f"  {line}" for line in OmegaConf.to_yaml(plain).splitlines())]
    return "\n".join([*lines, "", "-m sweeps over lists of values; --hydra-help tells of Hydra's own flags.", ""])
