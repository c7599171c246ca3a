"""Checks of what tools/compare.py is to compare."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from segzoo.messages import relative_to
from segzoo.types import PlainMapping


def comparison_errors(config: PlainMapping) -> list[str]:
    """List the errors in the choice of the models to compare.

    Args:
        config: the configuration of tools/compare.py.
    """
    runs, preds, modules = config.get("runs"), config.get("preds"), config.get("modules")
    if not isinstance(runs, list) or not isinstance(preds, Mapping | None) or not isinstance(modules, list):
        return []  # reported with the type
    if not runs and not preds and not modules:
        return ["there is nothing to compare. Name two runs or more: tools/compare.py <run> <run>"]
    errors = [f"runs: {run} does not exist{relative_to(run)}." for run in runs if isinstance(run, str) and not os.path.exists(run)]
    for name, folder in (preds or {}).items():
        if isinstance(folder, str) and not os.path.isdir(os.path.expanduser(folder)):
            errors.append(f"preds.{name}={folder}: there is no such folder{relative_to(folder)}.")
    for module in modules:
        if not isinstance(module, str) or not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", module):
            errors.append(f"modules: {module!r} is not a package.module:function.")
    data = config.get("data")
    if not runs and (data is None or "name" not in data):
        errors.append("the images and labels are unknown without a run. Set data=<name>, or add a run.")
    return errors
