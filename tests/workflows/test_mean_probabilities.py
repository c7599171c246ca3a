"""Class probabilities of several networks together."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from toy_training import INFO

from segzoo.device import Precision
from segzoo.types import Logits
from segzoo.workflows.dataset._folds import mean_probabilities


class Fixed(nn.Module):
    """Gives every pixel the same probabilities."""

    align_corners, num_classes = False, 3

    def __init__(self, *probabilities: float):
        super().__init__()
        self.logits = torch.tensor(probabilities).log()

    def forward(self, x):
        return Logits(self.logits[None, :, None, None].expand(len(x), -1, *x.shape[2:]))


def test_the_probabilities_of_several_networks_are_averaged():
    networks = [(Fixed(0.8, 0.1, 0.1), INFO), (Fixed(0.2, 0.2, 0.6), INFO)]
    mean = mean_probabilities(networks, np.zeros((4, 6, 3), np.uint8), Precision("fp32", torch.device("cpu")))
    assert mean.shape == (3, 4, 6) and mean.dtype == np.float32
    np.testing.assert_allclose(mean[:, 1, 2], [0.5, 0.15, 0.35], rtol=1e-5)
