"""Weights for a backbone alone: torchvision's, or a file in torchvision's, timm's or this project's layout."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from torch import Tensor

from segzoo.weights.load_report import BACKBONE, LoadableModule, LoadReport, loadable_tensors, matching_shapes
from segzoo.weights.state_dict import read_published, read_state

MIN_BACKBONE_FRACTION = 0.5  # of a backbone's parameters that backbone-only weights must bring, else they are the wrong weights


class LoadableBackbone(LoadableModule, Protocol):
    """What loading needs of a backbone, beyond being a module; see ``segzoo.backbones``."""

    def imagenet(self) -> tuple[str, str]: ...

    def key_aliases(self, keys: Collection[str]) -> dict[str, str]: ...

    def store_classifier(self, state: Mapping[str, Tensor]) -> None: ...


def load_backbone(backbone: LoadableBackbone, weights: str) -> LoadReport | None:
    """Loads backbone-only weights into a backbone, in place, and prints the report.

    Args:
        backbone: the backbone; its ``aliases`` say what torchvision and timm call its layers.
        weights: ``none``; ``imagenet`` (downloaded once through torchvision, hash checked); or a path as
            ``segzoo.checkpoints.store.resolve`` takes it, to a state dict of torchvision, timm or segzoo, of a backbone or of a whole
            model whose backbone is called ``backbone``.

    Returns:
        The report, or None for ``none``.

    Raises:
        ConfigError: if the weights cannot be had or read, or fit less than half of the backbone's parameters. The backbone is then
            as it was.
    """
    if weights == "none":
        return None
    state, note = _imagenet(backbone) if weights == "imagenet" else (read_state(weights), "")
    prefix = BACKBONE if any(name.startswith(BACKBONE) for name in state) else ""
    inside = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    aliases = backbone.key_aliases(inside)
    names = {_rename(name, aliases): prefix + name for name in inside}  # name here -> name in the file
    own = loadable_tensors(backbone)
    pairs = {name: names[name] for name in matching_shapes(own, {name: state[theirs] for name, theirs in names.items()})}
    report = LoadReport.of(weights, backbone, state, pairs, "", note)
    report.require(
        MIN_BACKBONE_FRACTION, f"backbone.weights={weights}", "Do the name, stem and width of the backbone match the file?"
    )
    for name, theirs in pairs.items():
        own[name].copy_(state[theirs])
    backbone.store_classifier(state)
    report.log()
    return report


def _imagenet(backbone: LoadableBackbone) -> tuple[Mapping[str, Tensor], str]:
    entry, note = backbone.imagenet()
    return read_published(entry, "backbone.weights=imagenet")[0], note


def _rename(name: str, aliases: Mapping[str, str]) -> str:
    return next((new + name.removeprefix(old) for old, new in aliases.items() if name.startswith(old)), name)
