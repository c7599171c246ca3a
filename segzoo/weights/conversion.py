"""Other projects' state dicts: torchvision's, mmsegmentation's, and those of the Caffe releases of PSPNet and ICNet.

A model says what others call its layers (``names_in``); here tensors are renamed and put into the order of channels that the
model has. In a Caffe layout the blobs of a layer are ``<layer>.weight`` and ``<layer>.bias``, those of its batch norm
``<layer>/bn.slope``, ``.bias``, ``.mean`` and ``.variance``; without the latter the norm is folded into the convolution. Caffe's
images are BGR less the mean (123.68, 116.779, 103.939 in RGB) with no division by a deviation; the filters that read
images are turned to RGB on the way in and back on the way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

from segzoo.registry import ConfigError
from segzoo.weights.load_report import LoadableModule, loadable_tensors

Layout = Literal["segzoo", "torchvision", "mmseg", "caffe"]
MARKS: dict[Layout, str] = {"mmseg": "decode_head.", "torchvision": "classifier.", "caffe": "conv1_1_3x3_s2."}  # of whole models
CAFFE_EPS_NOTE = {"weight": "slope", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
EPS = 1e-5  # of every batch norm here and there


class LoadableModel(LoadableModule, Protocol):
    """What a model says of its layers: names by prefix, and the order of channels inside a tensor."""

    def external_names(self, layout: str) -> Mapping[str, str]: ...

    def convert_tensor(self, layout: str, name: str, tensor: Tensor) -> Tensor: ...


def detect_layout(names: Iterable[str]) -> Layout:
    """Whose layout a whole model's tensor names are; ``segzoo`` unless others' marks are found."""
    names = list(names)
    if any(name.startswith("backbone.c1.") for name in names):
        return "segzoo"
    for layout, mark in MARKS.items():
        if any(name.startswith(mark) for name in names):
            return layout
    return "segzoo"


def convert_state_dict(model: LoadableModel, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Layout]:
    """A state dict in the model's own names and order of channels, and the layout it came in.

    Args:
        model: whose names are wanted.
        state: tensors in any layout that ``recognise`` knows. Those that the model has no name for keep theirs.

    Raises:
        ConfigError: the layout is another project's and has no such model.
    """
    layout = detect_layout(state)
    if layout == "segzoo":
        return dict(state), layout
    names = _names(model, layout)
    if layout == "caffe":
        state = _unfolded(state, names.values())
    own = {name: model.convert_tensor(layout, name, _rgb(layout, state[there])) for name, there in names.items() if there in state}
    taken = set(names.values())
    return own | {name: tensor for name, tensor in state.items() if name not in taken}, layout


def to_caffe_state_dict(model: LoadableModel, *, folded: bool = False) -> dict[str, Tensor]:
    """The model's tensors under the layer names of its Caffe release; heads that only train are left out, as there.

    Args:
        model: a PSPNet or an ICNet on a deep-stemmed ResNet.
        folded: whether batch norm is merged into the convolution before it, which then has a bias (``*_merge`` in the release).

    Raises:
        ConfigError: there is no Caffe release of such a model.
    """
    own = loadable_tensors(model)
    state = {
        there: model.convert_tensor("caffe", name, _rgb("caffe", own[name])).clone()
        for name, there in _names(model, "caffe").items()
    }
    return _folded(state) if folded else state


def _names(model: LoadableModel, layout: Layout) -> dict[str, str]:
    """Our tensor name -> theirs, for every tensor of the model that has a name there."""
    prefixes = model.external_names(layout)
    if not prefixes:
        raise ConfigError(
            f"these weights are in the layout of {layout}, which has no {type(model).__name__} on such a backbone; "
            "take weights of the same model, or for the backbone alone backbone.weights=<file>"
        )
    names = {}
    for name in loadable_tensors(model):
        layer = next((prefix for prefix in prefixes if name.startswith(f"{prefix}.")), None)
        if layer is None:
            continue
        there, part = prefixes[layer], name.removeprefix(f"{layer}.")
        names[name] = f"{there}.{CAFFE_EPS_NOTE[part] if there.endswith('/bn') else part}"
    return names


def _rgb(layout: Layout, tensor: Tensor) -> Tensor:
    """BGR to RGB and back in the filters that read images."""
    return tensor.flip(1) if layout == "caffe" and tensor.dim() == 4 and tensor.shape[1] == 3 else tensor


def _folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    merged = {}
    for name, tensor in state.items():
        layer, _, part = name.rpartition(".")
        if layer.endswith("/bn"):
            continue
        norm = {blob: state.get(f"{layer}/bn.{blob}") for blob in CAFFE_EPS_NOTE.values()}
        slope, bias, mean, variance = norm.values()
        if slope is None or bias is None or mean is None or variance is None or part != "weight":
            merged[name] = tensor
            continue
        factor = slope / torch.sqrt(variance + EPS)
        merged[name] = tensor * factor.view(-1, 1, 1, 1)
        merged[f"{layer}.bias"] = bias - mean * factor
    return merged


def _unfolded(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Batch norms for the ``names`` that want one: a merged bias becomes that of an identity. Statistics (1, C, 1, 1) become (C,)."""
    whole = {name: tensor.flatten() if "/bn." in name else tensor for name, tensor in state.items()}
    for layer in {name.rpartition("/bn.")[0] for name in names if "/bn." in name}:
        if f"{layer}.bias" not in whole or f"{layer}/bn.slope" in whole:
            continue
        bias = whole.pop(f"{layer}.bias")
        identity = (torch.ones_like(bias), bias, torch.zeros_like(bias), torch.full_like(bias, 1 - EPS))
        whole |= {f"{layer}/bn.{blob}": tensor for blob, tensor in zip(CAFFE_EPS_NOTE.values(), identity, strict=True)}
    return whole
