"""Networks of other libraries and their outputs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from onnx_files import write_onnx
from torch import nn

from segzoo.inference.outside_network import OnnxNetwork, OutsideNetwork
from segzoo.registry import ConfigError
from segzoo.types import Logits

X = torch.randn(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))


class Returning(nn.Module):
    """A network that returns its logits in some form."""

    def __init__(self, form, channels: int = 4):
        super().__init__()
        self.form, self.convolution = form, nn.Conv2d(3, channels, 1)

    def forward(self, x):
        return self.form(self.convolution(x))


@pytest.mark.parametrize(
    "form",
    [
        lambda logits: logits,
        lambda logits: {"aux": logits * 0, "out": logits},
        lambda logits: {"logits": logits},
        lambda logits: (logits, logits * 0),
        lambda logits: [logits],
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: Logits(logits, (logits * 0,)),
    ],
)
def test_logits_are_found_in_any_common_form(form):
    network = Returning(form)
    outside = OutsideNetwork(network, 4)
    assert torch.equal(outside(X).main, network.convolution(X)) and outside(X).aux == () and not outside.align_corners


@pytest.mark.parametrize(
    ("form", "channels", "message"),
    [
        (lambda logits: logits, 21, "returns logits of 21 classes, the data has 4. Map its classes"),
        (lambda logits: logits.argmax(1), 4, r"returns torch.int64 \(1, 8, 10\), expected logits \(N, 4, h, w\)"),
        (lambda logits: {"masks": logits}, 4, "returns dict, expected logits"),
    ],
)
def test_other_outputs_are_rejected(form, channels, message):
    with pytest.raises(ValueError, match=message):
        OutsideNetwork(Returning(form, channels), 4)(X)


@pytest.mark.parametrize("labels", [0, 1, 2])
def test_an_onnx_file_of_other_code_gives_its_labels(tmp_path, labels):
    """Logits, labels (N, H, W) and labels (N, 1, H, W)."""
    convolution = nn.Conv2d(3, 4, 1)
    network = OnnxNetwork(write_onnx(tmp_path / "model.onnx", convolution, labels), 4)
    assert not network.from_segzoo
    logits, expected = OutsideNetwork(network, 4)(X).main, convolution(X)
    assert logits.shape == expected.shape and torch.equal(logits.argmax(1), expected.argmax(1))
    if not labels:
        assert torch.allclose(logits, expected, atol=1e-5)


def test_onnx_files_that_do_not_fit_are_rejected(tmp_path):
    convolution = nn.Conv2d(3, 4, 1)
    with pytest.raises(ValueError, match=r"does not run on images \(1, 3, 8, 10\)"):
        OnnxNetwork(write_onnx(tmp_path / "fixed.onnx", convolution, height=16), 4)(X)
    with pytest.raises(ValueError, match="returns labels . to 3, expected 0 to 1"):
        OnnxNetwork(write_onnx(tmp_path / "labels.onnx", convolution, labels=1), 2)(X)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"broken.onnx cannot be loaded"):
        OnnxNetwork(tmp_path / "broken.onnx", 4)
