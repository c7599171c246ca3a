"""Checkpoint directories and random weights for the tests of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segzoo.checkpoints.schema import FORMAT, TRAINER
from segzoo.checkpoints.store import write_manifest
from segzoo.io import sha256
from segzoo.types import DatasetInfo

INFO = DatasetInfo("toy", ("sky", "road"), ((70, 130, 180), (128, 64, 128)))


def random_state(network: nn.Module) -> dict[str, Tensor]:
    """Random values for every tensor of a network, running statistics included.

    No two tensors are alike, so one loaded into the wrong layer is detected.
    """
    state = {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in network.state_dict().items()}
    return {k: v.abs() + 0.5 if k.endswith("running_var") else v * 0.05 for k, v in state.items()}


def loadable_names(network: nn.Module) -> list[str]:
    return [k for k in network.state_dict() if "num_batches" not in k]


def write_run(folder: Path, state: Mapping[str, Tensor], info: DatasetInfo | None = None) -> Path:
    """Write a run with two checkpoints, the first being the best.

    The second one has all values doubled.
    """
    checkpoints = folder / "run" / "checkpoints"
    for step, factor in (("0000100", 1.0), ("0000200", 2.0)):
        (checkpoints / step).mkdir(parents=True)
        metadata = {"format": FORMAT, "step": int(step), "config": {}, "dataset": (info or INFO).to_dict(), "widths": {}}
        written = [checkpoints / step / "model.safetensors", checkpoints / step / TRAINER]
        save_file({k: v.contiguous() * factor for k, v in state.items()}, written[0], {"segzoo": json.dumps(metadata)})
        torch.save({}, written[1])
        files = {file.name: {"sha256": sha256(file), "bytes": file.stat().st_size} for file in written}
        write_manifest(checkpoints / step, {"format": FORMAT, "step": int(step), "files": files})
    (checkpoints / "best").write_text("0000100\n")
    (checkpoints / "last").write_text("0000200\n")
    return folder / "run"
