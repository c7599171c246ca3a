"""Thresholds of class probabilities, in place of a plain argmax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from segzoo.data.dataset_info import unknown_class_error
from segzoo.inference.protocol import InferenceProtocol
from segzoo.messages import Example, format_override
from segzoo.registry import ConfigError, Range, type_error
from segzoo.types import DatasetInfo

Probability = Annotated[float, Range(0, 1, above=True)]
Thresholds = Annotated[dict[str, Probability], Example({"scratch": 0.3})]


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

    @property
    def setting(self) -> str:
        """Return the words that set these thresholds on the command line."""
        return format_override("threshold", self.values)


def make_threshold(info: DatasetInfo, values: Mapping[str, float]) -> Threshold:
    """Check the thresholds of classes.

    Raises:
        ConfigError: a class does not exist, is the background or has no probability, or no class is left without a threshold.
    """
    errors = [f"threshold: the class {unknown_class_error(name, info.classes)}" for name in values if name not in info.classes]
    errors += [
        f"threshold: {name}={value!r}, expected a probability above 0 and up to 1, such as {format_override('threshold', {name: 0.3})}."
        for name, value in values.items()
        if type_error(value, Probability)
    ]
    if info.background is not None and (background := info.classes[info.background]) in values:
        errors.append(
            f"threshold: {background} is the background, which is left where no class reaches its threshold. Give thresholds to other "
            "classes, a higher one for fewer of their pixels."
        )
    if errors:
        raise ConfigError(errors)
    ordered = {name: float(values[name]) for name in info.classes if name in values}
    others = tuple(k for k, name in enumerate(info.classes) if name not in values)
    if not others:
        raise ConfigError(
            "threshold: every class has one, so nothing is left where none is reached. Omit the background, or another class."
        )
    return Threshold(ordered, tuple(info.classes.index(name) for name in ordered), others)


def with_threshold(
    protocol: InferenceProtocol,
    info: DatasetInfo,
    recorded: Threshold | None = None,
    *,
    threshold: Thresholds | None = None,
) -> InferenceProtocol:
    """Return a protocol with these thresholds.

    Args:
        protocol: the protocol.
        info: the classes.
        recorded: the thresholds of an exported file.
        threshold: class name -> probability from which the class is predicted, see ``Threshold``. None means ``recorded``, and an empty
            mapping none. A ``threshold`` that the protocol already has comes before ``recorded``.

    Raises:
        ConfigError: the thresholds are invalid, or the protocol has a ``post``.
    """
    if threshold is None:
        return replace(protocol, threshold=protocol.threshold or recorded)
    return replace(protocol, threshold=make_threshold(info, threshold) if threshold else None)
