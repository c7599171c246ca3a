"""segzoo: semantic segmentation from FCN to ICNet, exact to the papers and driven by configuration."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else albumentations asks the network for a newer version at import

__version__ = "0.1.0"
__all__ = ["ConfigError", "create_model", "list_backbones", "list_models", "load"]

if TYPE_CHECKING:
    from segzoo.api import create_model, list_backbones, list_models, load
    from segzoo.registry import ConfigError


def __getattr__(name: str) -> Any:  # so that importing segzoo imports no torch
    if name == "ConfigError":
        from segzoo.registry import ConfigError

        return ConfigError
    if name in __all__:
        from segzoo import api

        return getattr(api, name)
    raise AttributeError(f"module 'segzoo' has no attribute {name!r}")
