"""Dilated convolutions compared with the same convolutions by space-to-batch.

A convolution with dilation d and padding d equals d x d plain ones, each on every d-th row and column (Yu and Koltun, ICLR 2016, as others
implemented it). Measured on the layers of PSPNet's and FCN's c4 and c5 and LargeFOV's fc6 at 1024x2048, interleaved, including the cost
of rearranging the pixels.

About four minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.interleaved_timing import compare_to_peer, time_interleaved
from benchmarks.harness.result_files import write_result

HW = (128, 256)  # 1024x2048 at stride 8
LAYERS = (("c4 3x3", 256, 256, 2), ("c5 3x3", 512, 512, 4), ("LargeFOV fc6", 512, 1024, 12))
RUNS = (("openvino", "bf16"), ("eager", "bf16"), ("eager", "fp32"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the layers are fixed."""


class SpaceToBatch(nn.Module):
    """A dilated 3x3 convolution as plain convolutions on subgrids.

    Dilation d gives d x d subgrids.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.dilation = conv.dilation[0]
        self.conv = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=False)
        self.conv.weight = conv.weight

    def forward(self, x: Tensor) -> Tensor:
        d, (height, width) = self.dilation, x.shape[2:]
        x = nn.functional.pad(x, (0, -width % d, 0, -height % d))
        n, c, padded_h, padded_w = x.shape
        grids = x.view(n, c, padded_h // d, d, padded_w // d, d).permute(3, 5, 0, 1, 2, 4)
        y = self.conv(grids.reshape(d * d * n, c, padded_h // d, padded_w // d))
        y = y.view(d, d, n, -1, padded_h // d, padded_w // d).permute(2, 3, 4, 0, 5, 1)
        return y.reshape(n, -1, padded_h, padded_w)[:, :, :height, :width]


def build_call(net: nn.Module, x: Tensor, runtime: str, precision: str) -> Callable[[], Any]:
    """Return a call that runs the layer in a runtime."""
    if runtime == "eager":
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        net, x = net.to(dtype).to(memory_format=torch.channels_last), x.to(dtype).contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return lambda: net(x)
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would send data
    import openvino  # type: ignore[import-not-found]

    graph = openvino.convert_model(net, example_input=x, input=list(x.shape))
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = openvino.compile_model(graph, "CPU", hints).create_infer_request()
    return lambda: request.infer({0: x.numpy()}, share_inputs=True)


@torch.no_grad()
def main(args: argparse.Namespace) -> None:
    """Check that both ways agree, and time them."""
    rows = []
    for name, in_channels, out_channels, dilation in LAYERS:
        for runtime, precision in RUNS:
            x = torch.randn(1, in_channels, *HW)
            conv = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False).eval()
            torch.testing.assert_close(SpaceToBatch(conv).eval()(x), conv(x), rtol=1e-3, atol=1e-3)
            calls = {
                "dilated": build_call(conv, x, runtime, precision),
                "space_to_batch": build_call(SpaceToBatch(conv).eval(), x, runtime, precision),
            }
            row = {"layer": name, "channels": [in_channels, out_channels], "dilation": dilation, "hw": list(HW)}
            row |= {"runtime": runtime, "precision": precision}
            taken = time_interleaved(calls, seconds=8)
            rows.append(row | compare_to_peer(taken["dilated"], taken["space_to_batch"]))
            print(rows[-1], flush=True)
    print(write_result("dilated_1024x2048", args.command, rows, packages=("openvino",)))
