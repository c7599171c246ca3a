"""Size limits for YAML files of users, checked before they are loaded.

Through nested aliases, a few hundred bytes of YAML can expand to gigabytes.
"""

from __future__ import annotations

from pathlib import Path

import yaml

MAX_BYTES, MAX_VALUES = 1_000_000, 100_000  # more than any configuration needs


def yaml_error(path: Path) -> str | None:
    """Describe why a YAML file cannot be loaded, else None.

    It may be too large, expand to too many values or not be valid YAML.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        return f"{path} has {size:,} bytes. A configuration file may have at most {MAX_BYTES:,}."
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return f"{path} is not valid YAML: {' '.join(str(error).split())}"
    count = _expanded_size(node, {}) if node else 0
    if count <= MAX_VALUES:
        return None
    return (
        f"{path} expands to {count:,} values through its aliases, but at most {MAX_VALUES:,} are allowed. Write it without aliases."
    )


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Count the values of a node, those behind aliases every time.

    A node that contains itself counts as too many.

    Args:
        node: the node.
        sizes: sizes of nodes that were counted before, by ``id``.
    """
    if id(node) not in sizes:
        sizes[id(node)] = MAX_VALUES + 1  # while its children are counted
        children = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        sizes[id(node)] = 1 + sum(_expanded_size(child, sizes) for child in children)
    return sizes[id(node)]
