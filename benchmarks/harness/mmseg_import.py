"""Import of mmsegmentation without mmcv's compiled operators.

Its segmentation heads use none of them, so they are stubbed and a current torch works. For tests and benchmarks only;
``pip install "segzoo[peers]"`` installs the packages.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any


class _Stub(types.ModuleType):
    """A module that returns an empty class for any attribute."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def import_mmseg() -> Any:
    """Return the module ``mmseg``, with mmcv's operators stubbed.

    Raises:
        ImportError: mmsegmentation or mmcv is not installed.
    """
    if "mmseg" in sys.modules:
        return sys.modules["mmseg"]
    import mmcv  # pyright: ignore[reportMissingImports]

    for name in ("mmcv.ops", "mmcv.ops.point_sample"):
        stub = _Stub(name)
        stub.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules.setdefault(name, stub)
    mmcv.__version__ = "2.1.0"  # 2.2 works as well, but mmseg asserts a version below it
    import mmseg  # pyright: ignore[reportMissingImports]

    return mmseg


def mmseg_model(config: str) -> Any:
    """Build a model of mmsegmentation with random weights and plain batch norm.

    Args:
        config: Stem of its config file.
    """
    mmseg = import_mmseg()
    from mmengine.config import Config  # pyright: ignore[reportMissingImports]
    from mmengine.registry import init_default_scope  # pyright: ignore[reportMissingImports]
    from mmseg.registry import MODELS  # pyright: ignore[reportMissingImports]

    path = next(Path(mmseg.__file__).parent.glob(f".mim/configs/*/{config}.py"))
    settings = Config.fromfile(str(path)).model
    settings.pretrained = None
    for part in (settings.backbone, settings.decode_head, *_as_list(settings.get("auxiliary_head"))):
        part.norm_cfg = {"type": "BN", "requires_grad": True}
    settings.data_preprocessor = None
    init_default_scope("mmseg")
    return MODELS.build(settings)


def _as_list(part: Any) -> list[Any]:
    return list(part) if isinstance(part, list | tuple) else [part] if part else []
