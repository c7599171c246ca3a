"""Conversion of state dicts from torchvision, mmsegmentation and Caffe releases.

The Caffe releases are those of PSPNet and ICNet. A model lists the external names of its layers in ``external_names``. Tensors are
renamed here, and their channels are reordered to match the model.

In the Caffe layout a layer's blobs are ``<layer>.weight`` and ``<layer>.bias``, and those of its batch norm ``<layer>/bn.slope``,
``.bias``, ``.mean`` and ``.variance``. Without the latter, batch norm is folded into the convolution. Caffe images are BGR minus
the mean (123.68, 116.779, 103.939 in RGB), without division by the standard deviation. Filters of the first convolution are
converted to RGB on import and back to BGR on export.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from segzoo.registry import ConfigError
from segzoo.weights._base import LoadableModel
from segzoo.weights.load_report import loadable_tensors

Layout = Literal["segzoo", "torchvision", "mmseg", "caffe"]
PREFIXES: dict[Layout, str] = {"mmseg": "decode_head.", "torchvision": "classifier.", "caffe": "conv1_1_3x3_s2."}  # of whole models
CAFFE_BN_BLOBS = {"weight": "slope", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
CAFFE_FIRST_CONV = "conv1_1.weight"  # of VGG-16
BN_EPS = 1e-5  # of every batch norm, in segzoo and in the releases


def detect_layout(names: Iterable[str]) -> Layout:
    """Detect the layout of a whole model's tensor names.

    Names without a known external prefix count as ``segzoo``.
    """
    names = list(names)
    if any(name.startswith("backbone.c1.") for name in names):
        return "segzoo"
    for layout, prefix in PREFIXES.items():
        if any(name.startswith(prefix) for name in names):
            return layout
    return "segzoo"


def convert_state_dict(model: LoadableModel, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Layout]:
    """Convert a state dict to the model's own names and channel order.

    Args:
        model: the model to convert for.
        state: tensors in any layout that ``detect_layout`` knows. Tensors without a counterpart in the model keep their names.

    Returns:
        The converted tensors, and the layout of ``state``.

    Raises:
        ConfigError: the layout is external and has no such model.
    """
    layout = detect_layout(state)
    if layout == "segzoo":
        return dict(state), layout
    names = _external_tensor_names(model, layout)
    if layout == "caffe":
        state = _unfold_bn(state, names.values())
    converted = {
        name: model.convert_tensor(layout, name, _swap_rgb(layout, state[external]))
        for name, external in names.items()
        if external in state
    }
    used = set(names.values())
    return converted | {name: tensor for name, tensor in state.items() if name not in used}, layout


def to_caffe_state_dict(model: LoadableModel, *, folded: bool = False) -> dict[str, Tensor]:
    """Convert a model's tensors to the layer names of its Caffe release.

    Training-only heads are left out, as in the releases.

    Args:
        model: a PSPNet or ICNet on a ResNet with the deep stem.
        folded: fold batch norm into the preceding convolution, which then has a bias (``*_merge`` in the release).

    Raises:
        ConfigError: there is no Caffe release of such a model.
    """
    tensors = loadable_tensors(model)
    state = {
        external: model.convert_tensor("caffe", name, _swap_rgb("caffe", tensors[name]), exported=True).clone()
        for name, external in _external_tensor_names(model, "caffe").items()
    }
    return _fold_bn(state) if folded else state


def _external_tensor_names(model: LoadableModel, layout: Layout) -> dict[str, str]:
    """Map local to external tensor names, for tensors that have one."""
    prefixes = model.external_names(layout)
    if not prefixes:
        raise ConfigError(
            f"these weights are in the layout of {layout}, which has no {type(model).__name__} on such a backbone. "
            "Use weights of the same model, or load the backbone alone with backbone.weights=<file>."
        )
    names = {}
    for name in loadable_tensors(model):
        layer = next((prefix for prefix in prefixes if name.startswith(f"{prefix}.")), None)
        if layer is None:
            continue
        external, part = prefixes[layer], name.removeprefix(f"{layer}.")
        names[name] = f"{external}.{CAFFE_BN_BLOBS[part] if external.endswith('/bn') else part}"
    return names


def vgg_to_rgb(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Convert the filters of a VGG-16 in Caffe's layout to RGB."""
    first = state.get(CAFFE_FIRST_CONV)
    return state if first is None else {**state, CAFFE_FIRST_CONV: _swap_rgb("caffe", first)}


def _swap_rgb(layout: Layout, tensor: Tensor) -> Tensor:
    """Convert filters on the input image between BGR and RGB."""
    return tensor.flip(1) if layout == "caffe" and tensor.dim() == 4 and tensor.shape[1] == 3 else tensor


def _fold_bn(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold batch norm into the convolution before it, in Caffe layout."""
    folded = {}
    for name, tensor in state.items():
        layer, _, part = name.rpartition(".")
        if layer.endswith("/bn"):
            continue
        blobs = {blob: state.get(f"{layer}/bn.{blob}") for blob in CAFFE_BN_BLOBS.values()}
        slope, bias, mean, variance = blobs.values()
        if slope is None or bias is None or mean is None or variance is None or part != "weight":
            folded[name] = tensor
            continue
        factor = slope / torch.sqrt(variance + BN_EPS)
        folded[name] = tensor * factor.view(-1, 1, 1, 1)
        folded[f"{layer}.bias"] = bias - mean * factor
    return folded


def _unfold_bn(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Add identity batch norm layers to a folded Caffe state dict.

    Only layers whose batch norm is in ``names`` get one; the folded bias becomes its bias. Statistics are reshaped from (1, C, 1,
    1) to (C,).
    """
    unfolded = {name: tensor.flatten() if "/bn." in name else tensor for name, tensor in state.items()}
    for layer in {name.rpartition("/bn.")[0] for name in names if "/bn." in name}:
        if f"{layer}.bias" not in unfolded or f"{layer}/bn.slope" in unfolded:
            continue
        bias = unfolded.pop(f"{layer}.bias")
        identity = (torch.ones_like(bias), bias, torch.zeros_like(bias), torch.full_like(bias, 1 - BN_EPS))
        unfolded |= {f"{layer}/bn.{blob}": tensor for blob, tensor in zip(CAFFE_BN_BLOBS.values(), identity, strict=True)}
    return unfolded
