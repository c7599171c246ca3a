"""Identification of backbones by the names and shapes of their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from segzoo.messages import format_override
from segzoo.types import PlainDict

RESNETS = {6: "resnet50", 23: "resnet101"}  # by the number of blocks in the stage of stride 16
BLOCK = re.compile(
    r"(?:^|\.)(?:(?:c4|layer3)\.(\d+)\.conv3|conv4_(\d+)_1x1_increase)\.weight$"
)  # the index starts at 0, in Caffe at 1
VGG_BN = re.compile(r"(?:^|\.)(?:c5|features)\.\d+\.running_mean$")
LAST_STAGE = ("c5.0.conv3.weight", "layer4.0.conv3.weight", "conv5_1_1x1_increase.weight")
FIRST_CONV = (
    "c1.0.weight",
    "conv1.weight",
    "conv1.0.weight",
    "stem.0.weight",
    "conv1_1_3x3_s2.weight",
    "features.0.weight",
    "conv1_1.weight",
)


def identify_backbone(state: Mapping[str, Tensor]) -> PlainDict:
    """Find the backbone that a state dict belongs to.

    Args:
        state: tensors of a backbone or a whole model, in any layout that can be loaded.

    Returns:
        Its ``backbone`` section as far as names and shapes tell it, empty for an unknown backbone.
    """
    first, last = _find(state, FIRST_CONV), _find(state, LAST_STAGE)
    if first is None or first.dim() != 4:
        return {}
    if last is None:
        is_vgg = (
            len(first) == 64
            and first.shape[2:] == (3, 3)
            and any(name in state for name in _with_prefix("c5.4.weight", "c5.6.weight", "features.28.weight", "conv5_3.weight"))
        )
        return {"name": "vgg16", "batch_norm": any(map(VGG_BN.search, state))} if is_vgg else {}
    blocks = {int(match[1]) + 1 if match[1] else int(match[2]) for match in map(BLOCK.search, state) if match}
    name, width = RESNETS.get(max(blocks, default=0)), last.shape[0] / 2048
    if name is None:
        return {}
    stem = "basic" if first.shape[-1] == 7 else "deep" if first.shape[0] == round(64 * width) else "v1c"
    return {"name": name, "stem": stem, "width": width}


def backbone_mismatch(setting: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Explain why weights do not fit, and what to change.

    Args:
        setting: the setting that names the weights, such as ``init.ckpt``.
        state: tensors of the file.
        own: tensors of the model or backbone to load into.

    Returns:
        Two lines.
    """
    found, wanted = identify_backbone(state), identify_backbone(own)
    names = ", ".join(list(state)[:3])
    there = _describe(found) or f"no backbone that segzoo knows: {len(state)} tensors such as {names}"
    here = _describe(wanted) or f"a backbone with tensors such as {', '.join(list(own)[:3])}"
    differing = {key: value for key, value in found.items() if found["name"] != wanted.get("name") or value != wanted.get(key)}
    if differing:
        words = [format_override("backbone" if key == "name" else f"backbone.{key}", value) for key, value in differing.items()]
        change = f"Set {' '.join(words)}, or set {setting} to weights of this backbone"
        wider = {"width"} == differing.keys() and found["width"] > wanted["width"]
        change += (
            ", or init.ckpt=<these weights> init.narrow=l1, which keeps the channels with the largest filters." if wider else "."
        )
    elif found:
        change = "The backbones are the same, so part of the file is missing or has other names."
    else:
        change = f"Set {setting} to weights of this backbone."
    return f"The file is {there}; this is {here}.\n{change}"


def _with_prefix(*names: str) -> list[str]:
    return [prefix + name for prefix in ("", "backbone.") for name in names]


def _find(state: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor | None:
    return next((state[name] for name in _with_prefix(*names) if name in state), None)


def _describe(backbone: PlainDict) -> str:
    if not backbone:
        return ""
    if "batch_norm" in backbone:
        return f"a {backbone['name']} {'with' if backbone['batch_norm'] else 'without'} batch norm"
    return f"a {backbone['name']} of width {backbone['width']:g} with the {backbone['stem']} stem"
