"""Protocols for the modules that weights are loaded into."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from torch import Tensor, nn

from segzoo.types import PlainDict


class LoadableBackbone(Protocol):
    """A backbone as loading needs it.

    See ``segzoo.backbones`` for what the methods do.
    """

    def state_dict(self) -> PlainDict: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def imagenet(self, *, narrowed: bool = False) -> tuple[str, str]: ...

    def key_aliases(self, keys: Collection[str]) -> dict[str, str]: ...

    def store_classifier(self, state: Mapping[str, Tensor]) -> None: ...

    def freeze_(self, stages: Collection[str]) -> object: ...


class LoadableModel(Protocol):
    """A segmentation model as loading needs it.

    ``external_names`` maps layer prefixes to their names in another layout, and ``convert_tensor`` reorders channels from it, or to
    it if ``exported``.
    """

    num_classes: int
    input_channels: int
    input_convs: tuple[str, ...]

    @property
    def backbone(self) -> LoadableBackbone: ...

    def state_dict(self) -> PlainDict: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...

    def external_names(self, layout: str) -> Mapping[str, str]: ...

    def convert_tensor(self, layout: str, name: str, tensor: Tensor, *, exported: bool = False) -> Tensor: ...

    def set_channel_widths_(self, state: Mapping[str, Tensor]) -> object: ...

    def narrow_state_dict(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
