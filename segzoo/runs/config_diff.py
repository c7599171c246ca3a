"""Whether two configurations compute the same, and where they differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

IGNORED_KEYS = ("resume", "workers", "device", "out", "jobs_per_gpu", "dry_run")  # words that do not change what a run computes


def config_hash(config: Mapping[str, Any]) -> str:
    """A short hash of what a configuration computes; those that decide where and how fast are left aside."""
    kept = {key: value for key, value in config.items() if key not in IGNORED_KEYS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def diff_configs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` of every setting in which two configurations compute something else."""
    if config_hash(old) == config_hash(new):
        return []
    before, after = flatten(old), flatten(new)
    keys = [key for key in before | after if key.split(".")[0] not in IGNORED_KEYS and _text(before, key) != _text(after, key)]
    return [f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}" for key in keys]


def _text(table: Mapping[str, Any], key: str) -> str | None:
    """A value as it is hashed, where False is not 0; None if it is absent."""
    return json.dumps(table[key], sort_keys=True) if key in table else None


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """Every value of a nested table by its dotted path; an empty table counts as a value."""
    if not isinstance(tree, Mapping) or not tree:
        return {path: tree}
    return {
        leaf: value for key, node in tree.items() for leaf, value in flatten(node, f"{path}.{key}" if path else str(key)).items()
    }
