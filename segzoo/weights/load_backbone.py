"""Load backbone-only weights from torchvision or from a file.

Files may have the layout of torchvision, timm or segzoo, those of VGG-16 also that of Caffe (``conv1_1``, ``fc6``).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from segzoo.registry import ConfigError
from segzoo.weights._base import LoadableBackbone
from segzoo.weights.conversion import vgg_to_rgb
from segzoo.weights.identify import backbone_mismatch
from segzoo.weights.load_report import BACKBONE, LoadReport, loadable_tensors, matching_shapes
from segzoo.weights.state_dict import read_published, read_weights

MIN_BACKBONE_FRACTION = 0.5  # of the backbone's parameters; weights that match fewer are likely the wrong file


def load_backbone(backbone: LoadableBackbone, weights: str) -> LoadReport | None:
    """Load backbone-only weights in place and print the report.

    Args:
        backbone: the backbone; its ``key_aliases`` map the layer names of torchvision and timm to its own.
        weights: ``none``; ``imagenet`` (downloaded once by torchvision, with its hash checked); or a path as
            ``segzoo.checkpoints.paths.resolve_weight_file`` takes it, to a state dict of torchvision, timm or segzoo, or of
            Caffe's VGG-16, for BGR images. It may be that of a backbone, or of a whole model with a submodule ``backbone``.

    Returns:
        The report, or None for ``none``.

    Raises:
        ConfigError: the weights cannot be downloaded or read, are for images of other channels than RGB, or match less than half of the backbone's parameters. The backbone is
            then unchanged.
    """
    if weights == "none":
        return None
    state, note = _imagenet(backbone) if weights == "imagenet" else _from_file(weights)
    external_names = names_in_file(backbone, state)
    own = loadable_tensors(backbone)
    candidates = {name: state[external] for name, external in external_names.items()}
    _check_input_channels(own, candidates, weights)
    loaded = {name: external_names[name] for name in matching_shapes(own, candidates)}
    report = LoadReport.of(weights, backbone, state, loaded, "", note)
    hint = backbone_mismatch("backbone.weights", state, backbone.state_dict())
    report.require(MIN_BACKBONE_FRACTION, f"backbone.weights={weights}", hint)
    for name, external in loaded.items():
        own[name].copy_(state[external])
    backbone.store_classifier(state)
    report.log()
    return report


def _check_input_channels(own: Mapping[str, Tensor], state: Mapping[str, Tensor], weights: str) -> None:
    """Reject weights whose first convolution is not for RGB."""
    for name, tensor in own.items():
        shape = list(state.get(name, tensor).shape)
        if (
            tensor.dim() == len(shape) == 4
            and tensor.shape[1] == 3 != shape[1]
            and [len(tensor), *tensor.shape[2:]] == shape[:1] + shape[2:]
        ):
            raise ConfigError(
                f"backbone.weights={weights} takes images of {shape[1]} channels, and only weights for RGB can be adapted to others. A whole model "
                "for the same images can be loaded with init.ckpt."
            )


def names_in_file(backbone: LoadableBackbone, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Map local names of a backbone's tensors to those in a file."""
    prefix = BACKBONE if any(name.startswith(BACKBONE) for name in state) else ""
    file_names = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    aliases = backbone.key_aliases(file_names)
    return {_rename(name, aliases): prefix + name for name in file_names}


def _imagenet(backbone: LoadableBackbone) -> tuple[Mapping[str, Tensor], str]:
    entry, note = backbone.imagenet()
    return read_published(entry, "backbone.weights=imagenet")[0], note


def _from_file(path: str) -> tuple[Mapping[str, Tensor], str]:
    weights = read_weights(path)
    return vgg_to_rgb(weights.tensors), f"taken from {weights.key!r} in the file" if weights.key else ""


def _rename(name: str, aliases: Mapping[str, str]) -> str:
    return next((local + name.removeprefix(external) for external, local in aliases.items() if name.startswith(external)), name)
