"""Thresholds of class probabilities, in place of a plain argmax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from segzoo.data.dataset_info import unknown_class_error
from segzoo.inference.protocol import InferenceProtocol
from segzoo.registry import ConfigError, Range
from segzoo.types import DatasetInfo

Probability = Annotated[float, Range(0, 1, above=True)]


@dataclass(frozen=True)
class Threshold:
    """Labels from class probabilities, with thresholds for some classes.

    A pixel is labeled with the most probable class among those that reach their threshold. Where none does, it gets the most probable
    class without a threshold. So a class with a threshold is never predicted below it, even where it is the most probable one.

    Attributes:
        values: class name -> threshold.
        ids: train ids of these classes.
        others: train ids of the classes without a threshold.
    """

    values: dict[str, float]
    ids: tuple[int, ...]
    others: tuple[int, ...]

    def __call__(self, probabilities: Tensor, dim: int = 0) -> Tensor:
        """Label pixels.

        Args:
            probabilities: class probabilities, such as (K, H, W).
            dim: the dimension of the classes, which the labels lack.
        """
        ids, others = (torch.tensor(each, device=probabilities.device) for each in (self.ids, self.others))
        shape = [1] * probabilities.ndim
        shape[dim] = len(self.ids)
        limits = torch.tensor([self.values[name] for name in self.values], dtype=probabilities.dtype, device=probabilities.device)
        candidates = probabilities.index_select(dim, ids)
        reached = torch.where(candidates >= limits.view(shape), candidates, torch.full_like(candidates, -1))
        best = ids[reached.argmax(dim)]
        rest = others[probabilities.index_select(dim, others).argmax(dim)]
        return torch.where(reached.amax(dim) >= 0, best, rest)

    def describe(self) -> str:
        """Return the thresholds for the inference protocol."""
        return " ".join(f"{name}={value:g}" for name, value in self.values.items())


def make_threshold(info: DatasetInfo, values: Mapping[str, float]) -> Threshold:
    """Check the thresholds of classes.

    Raises:
        ConfigError: a class does not exist, or no class is left without a threshold.
    """
    if unknown := [name for name in values if name not in info.classes]:
        raise ConfigError([f"threshold: the class {unknown_class_error(name, info.classes)}" for name in unknown])
    ordered = {name: float(values[name]) for name in info.classes if name in values}
    others = tuple(k for k, name in enumerate(info.classes) if name not in values)
    if not others:
        raise ConfigError(
            "threshold: every class has one, so nothing is left where none is reached. Omit the background, or another class."
        )
    return Threshold(ordered, tuple(info.classes.index(name) for name in ordered), others)


def add_threshold(
    protocol: InferenceProtocol, info: DatasetInfo, *, threshold: dict[str, Probability] | None = None
) -> InferenceProtocol:
    """Add thresholds to a protocol.

    Args:
        protocol: the protocol.
        info: the classes.
        threshold: class name -> probability from which the class is predicted, see ``Threshold``. None or an empty mapping adds nothing.

    Raises:
        ConfigError: the thresholds are invalid, or the protocol has a ``post``.
    """
    return replace(protocol, threshold=make_threshold(info, threshold)) if threshold else protocol
