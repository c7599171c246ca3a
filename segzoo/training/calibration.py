"""What a network does on a few training images, for pruners that ask: its loss, and the gradients of that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from segzoo.device import Precision
from segzoo.inference.segment import forward
from segzoo.layers.modes import eval_mode
from segzoo.layers.normalize import normalize
from segzoo.types import Logits

if TYPE_CHECKING:
    from segzoo.training.components import TrainingComponents


@contextmanager
def _all_trained(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    frozen = [parameter.requires_grad_() for parameter in parameters if not parameter.requires_grad]
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


class CalibrationSet:
    """Looks at the same images each time it is asked, one by one, with norms and dropout as in evaluation.

    Args:
        model: as it is at the moment of asking.
        parts: its training set, loss and dataset info.
        formats: number format and device; fp32 in place of fp16, whose small gradients would vanish.
        count: images, spread over the training set.
    """

    def __init__(self, model: nn.Module, parts: TrainingComponents, formats: Precision, count: int = 16):
        self.model, self.parts = model, parts
        self.formats = Precision("fp32", formats.device) if formats.name == "fp16" else formats
        self.indices = sorted({i * len(parts.train_set) // count for i in range(count)})
        self._read: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def loss(self) -> float:
        """The mean loss over all labeled pixels of the images."""
        total = weights = 0.0
        with eval_mode(self.model):
            for logits, label in self._answers():
                weight = float(self.parts.loss.weight(label, logits)[0])
                total += float(self.parts.loss(logits, label)) * weight
                weights += weight
        return total / max(weights, 1.0)

    def gradients(self) -> Iterator[dict[str, Tensor]]:
        """The gradient of each image's loss, by the parameter's name; what gradients the parameters hold stays as it is.

        Frozen parameters have theirs too: what they are worth does not depend on whether they are trained.
        """
        named = dict(self.model.named_parameters())
        with eval_mode(self.model), _all_trained(named.values()):
            for logits, label in self._answers():
                found = torch.autograd.grad(self.parts.loss(logits, label), list(named.values()), allow_unused=True)
                yield {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}

    def _answers(self) -> Iterator[tuple[Logits, Tensor]]:
        for image, label in self._pictures():
            x = normalize(image, self.parts.info, self.formats.device)
            yield forward(self.model, x, self.formats), label.to(self.formats.device)

    def _pictures(self) -> list[tuple[Tensor, Tensor]]:
        """Images (1, H, W, 3) and labels (1, H, W), augmented as in training but always alike; read when first asked for."""
        if not self._read:
            data, augment = self.parts.train_set, self.parts.augment
            samples = [augment(data[i], i) if augment else data[i] for i in self.indices]
            self._read = [
                (torch.from_numpy(sample.image[None]), torch.from_numpy(sample.label[None].astype("int64"))) for sample in samples
            ]
        return self._read
