"""Rules by which an image fails an inspection."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from segzoo.data.dataset_info import unknown_class_error
from segzoo.registry import ConfigError

LIMIT = re.compile(r"(\d+(?:\.\d+)?) ?(px|%)")


class Rule(NamedTuple):
    """A limit that a class may not reach.

    Attributes:
        name: the class.
        limit: pixels of its largest region (unit ``px``), or percent of the image (unit ``%``).
    """

    name: str
    limit: float
    unit: str


def rule_errors(fail_if: Mapping[str, object] | None, classes: Sequence[str] | None) -> list[str]:
    """List the errors of ``fail_if``.

    Args:
        fail_if: class name -> limit.
        classes: the known classes. None skips their check.
    """
    errors = []
    for name, limit in (fail_if or {}).items():
        if classes is not None and name not in classes:
            errors.append(f"fail_if: the class {unknown_class_error(str(name), tuple(classes))}")
        match = LIMIT.fullmatch(str(limit))
        if match is None or not 0 < float(match[1]) <= (100 if match[2] == "%" else 1e12):
            errors.append(
                f"fail_if: {name}: {limit} is not a limit. Expected the area of the largest region, as in 'fail_if={{{name}: 50px}}', or a "
                f"share of the image, as in 'fail_if={{{name}: 2%}}'."
            )
    return errors


def make_rules(fail_if: Mapping[str, str] | None, classes: Sequence[str]) -> tuple[Rule, ...]:
    """Parse ``fail_if``.

    Raises:
        ConfigError: a class is unknown, or a limit is invalid.
    """
    if errors := rule_errors(fail_if, classes):
        raise ConfigError(errors)
    matches = {name: LIMIT.fullmatch(limit) for name, limit in (fail_if or {}).items()}
    return tuple(Rule(name, float(match[1]), match[2]) for name, match in matches.items() if match)
