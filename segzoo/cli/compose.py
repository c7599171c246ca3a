"""Compose a configuration with Hydra outside of ``hydra.main``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segzoo.types import PlainDict

CONF = Path(str(files("segzoo.conf")))
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException)


@contextmanager
def hydra_composer(config_dir: str | None = None) -> Iterator[Hydra]:
    """Yield a Hydra that searches ``config_dir`` and ``conf/``.

    Hydra keeps it in a global variable, which is cleared before and after.
    """
    search_path = create_config_search_path(str(CONF))
    if config_dir:
        url = config_dir if "://" in config_dir else f"file://{Path(config_dir).resolve()}"
        search_path.prepend(provider="command-line", path=url)
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2(task_name="segzoo", config_search_path=search_path)
    finally:
        GlobalHydra.instance().clear()


def compose(hydra: Hydra, command: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/<command>.yaml``, with Hydra's own settings below ``hydra``.

    Raises:
        HydraException, OmegaConfBaseException: an override cannot be applied.
    """
    return hydra.compose_config(command, list(overrides), RunMode.RUN, from_shell=False, with_log_configuration=False)


def to_dict(config: DictConfig) -> PlainDict:
    """Convert to plain containers, with interpolations unresolved."""
    return OmegaConf.to_container(config)  # type: ignore[return-value]
