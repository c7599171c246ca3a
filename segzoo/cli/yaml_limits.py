"""Configuration files of others, looked at before they are read: a few hundred bytes of YAML can unfold into gigabytes."""

from __future__ import annotations

from pathlib import Path

import yaml

BYTES, NODES = 1_000_000, 100_000  # more than any configuration needs


def find_oversized_yaml(folder: Path) -> list[str]:
    """What is wrong with the YAML files below a folder: too large, unfolding to too much, or no YAML; one line each."""
    faults = []
    for path in sorted(folder.rglob("*.yaml")):
        if path.stat().st_size > BYTES:
            faults.append(f"{path} has {path.stat().st_size:,} bytes, which is no configuration; wanted at most {BYTES:,}.")
            continue
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            faults.append(f"{path} is no YAML: {' '.join(str(error).split())}")
            continue
        count = _expanded_size(node, {}) if node else 0
        if count > NODES:
            faults.append(
                f"{path} unfolds to {count:,} values through its aliases; wanted at most {NODES:,}. Write it without them."
            )
    return faults


def _expanded_size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, those behind aliases counted each time; a node that holds itself counts as too many."""
    if id(node) not in known:
        known[id(node)] = NODES + 1  # while its parts are counted
        parts = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_expanded_size(part, known) for part in parts)
    return known[id(node)]
