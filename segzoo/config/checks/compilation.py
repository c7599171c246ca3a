"""Requirements of ``compile=true`` on a training and the machine."""

from __future__ import annotations

import os
import shutil

from segzoo.config.sections import training_size
from segzoo.resources import is_installed
from segzoo.types import PlainMapping


def compile_errors(config: PlainMapping) -> list[str]:
    """List the reasons for which a training cannot be compiled."""
    if not config.get("compile"):
        return []
    errors = []
    if training_size(config) is None:
        errors.append(
            "compile=true compiles the network again for each size of images. Train on crops of one size: 'augment.crop=[H,W]'"
        )
    if config["backbone"].get("checkpoint"):
        errors.append(
            "compile=true and backbone.checkpoint=true exclude each other: recomputed layers are not compiled. Set one to false."
        )
    return errors + _machine_errors(config["device"])


def _machine_errors(device: str) -> list[str]:
    """Require triton on CUDA, and a C++ compiler on a CPU."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return [] if is_installed("triton") else ["compile=true needs triton on CUDA: pip install triton"]
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler):
        return []
    return [
        f"compile=true needs a C++ compiler on a CPU, and {compiler} is not installed. Install it (apt install g++) or set compile=false."
    ]
