"""Packages of extras, looked up without importing them."""

from __future__ import annotations

from importlib.util import find_spec


def is_installed(package: str) -> bool:
    """True if a package can be imported. A directory without code cannot."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
