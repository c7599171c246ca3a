"""Networks prepared for predictions of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import build, randomized
from torch import nn

from segzoo.config.from_export import run_as_configured
from segzoo.inference.prediction.segmenter import Segmenter
from segzoo.runtimes.network import run_in
from segzoo.types import DatasetInfo, Logits

CPU = torch.device("cpu")


class TwoConvs(Segmenter):
    """A network that compiles in seconds."""

    info = DatasetInfo("toy", ("sky", "road", "tree"), ((70, 130, 180), (128, 64, 128), (34, 139, 34)))
    num_classes, align_corners = 3, False

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        return Logits(self.head(self.features(x).relu()).float())

    def fuse_for_inference_(self):
        return 0


@pytest.mark.slow
def test_a_compiled_network_predicts_images_of_several_sizes():
    torch.manual_seed(0)
    network = TwoConvs().eval()
    images = [np.random.default_rng(seed).integers(0, 256, (64 + 16 * seed, 96, 3), dtype=np.uint8) for seed in range(3)]
    expected = [network.predict(image).labels for image in images]
    assert all(len(np.unique(labels)) > 1 for labels in expected)
    compiled = run_in(network, "torch_compile", precision="fp32", device=CPU)
    for image, labels in zip(images, expected, strict=True):
        assert (compiled.predict(image).labels == labels).mean() > 0.999


def test_the_precision_of_a_network_is_that_of_its_predictions():
    network = run_in(TwoConvs().eval(), "eager", precision="bf16", device=CPU)
    types = []
    network.get_submodule("head").register_forward_hook(lambda layer, inputs, output: types.append(output.dtype))
    network.predict(np.zeros((64, 64, 3), np.uint8))
    assert types == [torch.bfloat16] and network.precision == "bf16"


def test_tools_predict_with_a_fused_network():
    torch.manual_seed(0)
    network, image = (
        randomized(build("icnet", num_classes=3)).eval(),
        np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8),
    )
    network.info = TwoConvs.info
    expected = network.predict(image).labels
    config = {"ckpt": None, "runtime": {"name": "eager"}, "device": "cpu", "precision": "fp32"}
    fused, device = run_as_configured(config, network)
    assert device == "cpu" and not any(isinstance(layer, nn.BatchNorm2d) for layer in fused.modules())
    assert len(np.unique(expected)) > 1 and (fused.predict(image).labels == expected).mean() > 0.999
