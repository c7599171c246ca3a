"""Peak memory of evaluating 150 classes at 1024 x 2048 pixels."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tensor_memory import TensorMemory, peak_bytes
from torch import nn

from segzoo.api import create_model
from segzoo.device import Precision
from segzoo.inference import segment
from segzoo.inference.passes import score_rows
from segzoo.inference.protocol import InferenceProtocol
from segzoo.types import Logits

CLASSES, FP32 = 150, Precision("fp32", torch.device("cpu"))
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
MULTI_SCALE: dict[str, Any] = {"scales": SCALES, "flip": True}
SIZE, WINDOW = (1024, 2048), (713, 713)
SLIDING: dict[str, Any] = MULTI_SCALE | {"crop": WINDOW, "average": "flip_logits"}
# network, protocol, the network's largest input, and the input at which its own peak is the measure
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, int], tuple[int, int]]] = {
    "whole": ("pspnet", {}, SIZE, SIZE),
    "slide": ("pspnet", {"crop": WINDOW}, WINDOW, WINDOW),
    "scales": ("pspnet", MULTI_SCALE, (1792, 3584), (1792, 3584)),
    "pspnet_ms": ("pspnet", SLIDING, WINDOW, WINDOW),
    "scales of stride 4": ("icnet", MULTI_SCALE, (1792, 3584), (1792, 3584)),
    "pspnet_ms of stride 4": ("icnet_half", SLIDING, WINDOW, SIZE),  # a window has a quarter of the pixels
}
STRIDES = {"pspnet": 8, "icnet": 4, "icnet_half": 4}  # of the logits
SMALL: dict[str, dict[str, Any]] = {
    "whole": {},
    "flip": {"flip": True},
    "slide": {"crop": (48, 48), "window_weights": "gaussian", "batch": 3},
    "slide_logits": {"crop": (48, 48), "average": "logits", "flip": True},
    "scales": {"scales": (0.5, 1.0, 1.5), "flip": True},
    "pspnet_ms": {"crop": (48, 48), "scales": (0.5, 1.0, 1.5), "flip": True, "average": "flip_logits"},
    "pad": {"pad_multiple": 8},
    "resize": {"resize_multiple": 32},
    "input_hw": {"input_hw": (120, 90), "label_size": "input"},
}


class StandIn(nn.Module):
    """One layer with logits as large as those of PSPNet or ICNet."""

    align_corners = True

    def __init__(self, num_classes: int = CLASSES, stride: int = 8):
        super().__init__()
        torch.manual_seed(0)
        self.num_classes = num_classes
        self.layer = nn.Conv2d(3, num_classes, stride + 1, stride=stride, padding=stride // 2)

    def forward(self, x):
        return Logits(self.layer(x))


def label(model: nn.Module, height: int, width: int, protocol: dict[str, Any]) -> torch.Tensor:
    x = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    return segment.segment_image(model, x, image, InferenceProtocol(**protocol), FP32)


@pytest.mark.integration
@pytest.mark.parametrize("name", SMALL)
def test_no_tensor_holds_all_classes_at_image_size(name, monkeypatch):
    monkeypatch.setattr(score_rows, "STRIP_SCORES", 2**14)
    with TensorMemory() as memory:
        labels = label(StandIn(64), 96, 128, SMALL[name])
    assert 0 < memory.largest < 64 * labels.numel() / 8


def test_the_peak_counts_tensors_that_live_at_the_same_time():
    def three_of_four():
        first = torch.zeros(1000)
        second = first + 1
        del first
        return second.view(10, 100) + 2 + 3

    assert peak_bytes(three_of_four) == 3 * 4000
    with TensorMemory() as memory:
        torch.zeros(1000)
    assert memory.alive == 0 and memory.largest == 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_protocol_needs_less_than_half_the_memory_of_the_network(name, monkeypatch):
    # strips take equal memory, so every 16th will do
    monkeypatch.setattr(segment, "strips", lambda *size: score_rows.strips(*size)[::16])
    # at most what the network needs for its largest input, plus what the protocol needs with a single layer in its place
    architecture, protocol, largest, measure = CASES[name]
    with torch.device("meta"):
        model = create_model(architecture, backbone="resnet50", num_classes=CLASSES).eval()
    inputs = [torch.empty(1, 3, *size, device="meta") for size in (largest, measure)]
    network, own = (peak_bytes(partial(model, x)) for x in inputs)
    rest = peak_bytes(lambda: label(StandIn(stride=STRIDES[architecture]), *SIZE, protocol))
    assert network + rest < 1.5 * own, f"network {network / 1e6:.0f} MB, rest {rest / 1e6:.0f} MB, measure {own / 1e6:.0f} MB"
