"""Class probabilities that are passed on while an image is labeled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_training import Toy

from segzoo.device import Precision
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.segment import predict_probabilities, segment_image

FP32 = Precision("fp32", torch.device("cpu"))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("settings", [{"flip": True}, {"crop": (16, 12)}, {"scales": (0.5, 1.5)}], ids=str)
def test_the_passed_rows_are_the_probabilities_of_the_protocol(settings: dict[str, Any], average):
    torch.manual_seed(3)
    model, x = Toy().eval(), torch.randn(1, 3, 33, 47)
    protocol = InferenceProtocol(average=average, **settings)
    passed: list[torch.Tensor] = []
    segment_image(model, x, torch.zeros(1, 33, 47, 3, dtype=torch.uint8), protocol, FP32, passed.append)
    expected = predict_probabilities(model, x, protocol, FP32)[0]
    torch.testing.assert_close(torch.cat(passed, 1), expected.detach())
    assert torch.allclose(expected.sum(0), torch.ones(33, 47))
