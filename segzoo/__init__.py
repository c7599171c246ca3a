"""Semantic-segmentation models from FCN to ICNet, configured by YAML.

Each model follows its paper and release; README lists the deviations.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or else albumentations checks for updates over the network at import

__version__ = "0.2.0"
__all__ = ["ConfigError", "create_model", "from_pretrained", "list_backbones", "list_models", "load"]

if TYPE_CHECKING:
    from segzoo.api import create_model, from_pretrained, list_backbones, list_models, load
    from segzoo.registry import ConfigError


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:  # defers importing torch until a name is used
    if name == "ConfigError":
        from segzoo.registry import ConfigError

        return ConfigError
    if name in __all__:
        from segzoo import api

        return getattr(api, name)
    raise AttributeError(f"module 'segzoo' has no attribute {name!r}")
