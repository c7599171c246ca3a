"""Loss and gradients of a model on a few training images.

Importance criteria of pruning read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from segzoo.device import Precision
from segzoo.evaluation.mean_loss import MeanLoss
from segzoo.inference.passes.forward_pass import forward
from segzoo.layers.modes import eval_mode
from segzoo.layers.normalize import normalize
from segzoo.types import Logits

if TYPE_CHECKING:
    from segzoo.training.components import TrainingComponents


class CalibrationSet:
    """Loss and gradients of a model on fixed training images.

    Images are processed one at a time, with batch norm and dropout in evaluation mode.

    Args:
        model: measured in its state at the time of each call.
        components: provide the training set, augmentation, loss and dataset info.
        precision: number format and device. fp32 replaces fp16, in which small gradients would underflow.
        count: number of images, spread evenly over the training set.
    """

    def __init__(self, model: nn.Module, components: TrainingComponents, precision: Precision, count: int = 16):
        self.model, self.components = model, components
        self.precision = Precision("fp32", precision.device) if precision.name == "fp16" else precision
        self.indices = sorted({i * len(components.train_set) // count for i in range(count)})
        self._samples: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def loss(self) -> float:
        """Compute the mean loss over the images."""
        mean = MeanLoss(self.components.loss)
        with eval_mode(self.model):
            for logits, label in self._outputs():
                mean.add(logits, label)
        return mean.compute() or 0.0

    def gradients(self) -> Iterator[dict[str, Tensor]]:
        """Yield the gradients of each image by parameter name.

        The ``grad`` of the parameters stays unchanged. Frozen parameters are included: their importance does not depend on whether they are trained.
        """
        named = dict(self.model.named_parameters())
        with eval_mode(self.model), _requires_grad(named.values()):
            for logits, label in self._outputs():
                gradients = torch.autograd.grad(self.components.loss(logits, label), list(named.values()), allow_unused=True)
                yield {name: gradient for name, gradient in zip(named, gradients, strict=True) if gradient is not None}

    def _outputs(self) -> Iterator[tuple[Logits, Tensor]]:
        device = self.precision.device
        for image, label in self._load_samples():
            yield forward(self.model, normalize(image, self.components.info, device), self.precision), label.to(device)

    def _load_samples(self) -> list[tuple[Tensor, Tensor]]:
        """Return images (1, H, W, 3) and labels (1, H, W).

        They are augmented with fixed seeds and read at the first call.
        """
        if not self._samples:
            dataset, augment = self.components.train_set, self.components.augment
            samples = [augment(dataset[i], i) if augment else dataset[i] for i in self.indices]
            self._samples = [
                (torch.from_numpy(sample.image[None]), torch.from_numpy(sample.label[None].astype("int64"))) for sample in samples
            ]
        return self._samples


@contextmanager
def _requires_grad(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    frozen = [parameter.requires_grad_() for parameter in parameters if not parameter.requires_grad]
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
