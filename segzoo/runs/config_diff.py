"""Compare configurations by the settings that change results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from segzoo.io import to_plain_containers
from segzoo.registry import ConfigError
from segzoo.types import PlainDict, PlainMapping

if TYPE_CHECKING:
    from segzoo.distributed import Distributed

IGNORED_KEYS = (
    "resume",
    "workers",
    "device",
    "out",
    "overwrite",
    "only",
    "max_frames",
    "jobs_per_gpu",
    "reuse_memory",
    "dry_run",
    "data.cache",
    "data.show_channels",
    "backbone.checkpoint",
    "logger",
    "report",
)  # they change no result
NEWER_SETTINGS: PlainDict = {
    "compile": False,
    "data.channels": 3,
    "data.bits": 8,
    "augment.reduced_jpeg": False,
    "init.narrow": "none",
}  # settings that were added later, with the values of the runs from before


class Difference(NamedTuple):
    """A setting whose value differs between two configurations."""

    key: str  # dotted path
    text: str  # such as "steps: 10 -> 20"
    value: object = None  # the newer one
    old: Any = None


def config_hash(config: PlainMapping) -> str:
    """Hash the settings of a configuration that change results.

    Settings for location, speed and resuming are ignored. So are newer settings at the value that stands for their absence.
    """
    return hashlib.sha256(json.dumps(_relevant(config), sort_keys=True).encode()).hexdigest()[:12]


def check_same_settings(dist: Distributed, config: PlainMapping) -> None:
    """Raise ConfigError if the ranks were started with different settings."""
    hashes = dist.gather(config_hash(to_plain_containers(config)))
    if len(set(hashes)) > 1:
        rank = next(rank for rank, value in enumerate(hashes) if value != hashes[0])
        raise ConfigError(f"rank {rank} was started with other settings than rank 0; pass the same overrides to every rank")


def diff_configs(old: PlainMapping, new: PlainMapping) -> list[Difference]:
    """List differences in settings that change results."""
    before, after = flatten(_relevant(old)), flatten(_relevant(new))
    keys = [key for key in before | after if _as_json(before, key) != _as_json(after, key)]
    before, after = NEWER_SETTINGS | before, NEWER_SETTINGS | after
    return [
        Difference(key, f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}", after.get(key), before.get(key))
        for key in keys
    ]


def stored_differences(path: Path, config: PlainMapping) -> list[Difference]:
    """List differences of a configuration from a directory's ``config.yaml``.

    A file that cannot be read counts as one difference.
    """
    try:
        old = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        return [Difference("config.yaml", f"its config.yaml cannot be read: {error}")]
    if not isinstance(old, dict):
        return [Difference("config.yaml", "its config.yaml holds no settings")]
    return diff_configs(old, config)


def _relevant(config: PlainMapping, section: str = "") -> PlainDict:
    """Keep the settings of a configuration or section that change results."""
    kept: PlainDict = {}
    for key, value in config.items():
        path = section + key
        if path in IGNORED_KEYS or _as_json(config, key) == _as_json(NEWER_SETTINGS, path):
            continue
        kept[key] = _relevant(value, f"{key}.") if isinstance(value, Mapping) and not section else value
    return kept


def _as_json(leaves: PlainMapping, key: str) -> str | None:
    """JSON of a value, where False and 0 differ, None if absent."""
    return json.dumps(leaves[key], sort_keys=True) if key in leaves else None


def flatten(tree: object, path: str = "") -> PlainDict:
    """Flatten a nested mapping to dotted paths and leaf values.

    An empty mapping counts as a leaf.
    """
    if not isinstance(tree, Mapping) or not tree:
        return {path: tree}
    return {
        leaf: value for key, node in tree.items() for leaf, value in flatten(node, f"{path}.{key}" if path else str(key)).items()
    }


def join_texts(differences: Sequence[Difference]) -> str:
    """Join the texts of differences to one line."""
    return ", ".join(difference.text for difference in differences)
