"""One run folder for all ranks of a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from segzoo.engine.run import Run, open_run
from segzoo.engine.settings import config_hash
from segzoo.engine.world import World
from segzoo.files import plain
from segzoo.registry import ConfigError


def open_together(
    world: World,
    tool: str,
    title: str,
    config: dict[str, Any],
    root: Path = Path("runs"),
    *,
    out: str | None = None,
    resume: str = "none",
) -> Run:
    """``open_run`` on rank 0, and its answer or error on every rank. A training that torchrun started again resumes by itself.

    Raises:
        ConfigError: as ``open_run``; or the ranks were started with different settings.
    """
    hashes = world.gather(config_hash(plain(config)))
    if len(set(hashes)) > 1:
        other = next(rank for rank, found in enumerate(hashes) if found != hashes[0])
        raise ConfigError(f"rank {other} was started with other settings than rank 0; give every rank the same words")
    opened: list[Run] = []

    def here() -> Run:
        opened.append(
            open_run(tool, title, config, root, out=out, resume="auto" if world.restarts and resume == "none" else resume)
        )
        return replace(opened[0], lock=None)  # a lock cannot travel

    run = world.first(here)
    return opened[0] if opened else run
