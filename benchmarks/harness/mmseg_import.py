"""Makes mmsegmentation importable beside a current torch: its heads need none of mmcv's compiled operators, so they are stubbed.

Used by tests and benchmarks only; ``pip install "segzoo[peers]"`` brings the packages.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any


class _Stub(types.ModuleType):
    """A module of which any attribute is a class that cannot do anything."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def import_mmseg() -> Any:
    """``mmseg``, with mmcv's operators stubbed. Raises ImportError when the peers are not installed."""
    if "mmseg" in sys.modules:
        return sys.modules["mmseg"]
    import mmcv

    for name in ("mmcv.ops", "mmcv.ops.point_sample"):
        stub = _Stub(name)
        stub.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules.setdefault(name, stub)
    mmcv.__version__ = "2.1.0"  # 2.2 works as well, but mmseg asserts a version below it
    import mmseg

    return mmseg


def mmseg_model(config: str) -> Any:
    """A model of mmsegmentation by the stem of its config file, with random weights, plain BN and no pre-trained file."""
    mmseg = import_mmseg()
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    found = next(Path(mmseg.__file__).parent.glob(f".mim/configs/*/{config}.py"))
    settings = Config.fromfile(str(found)).model
    settings.pretrained = None
    for part in (settings.backbone, settings.decode_head, *_listed(settings.get("auxiliary_head"))):
        part.norm_cfg = {"type": "BN", "requires_grad": True}
    settings.data_preprocessor = None
    init_default_scope("mmseg")
    return MODELS.build(settings)


def _listed(part: Any) -> list[Any]:
    return list(part) if isinstance(part, list | tuple) else [part] if part else []
