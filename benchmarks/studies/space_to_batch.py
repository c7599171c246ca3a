"""Dilated convolutions beside the same by space-to-batch: ``python -m benchmarks.dilated``, about four minutes on two cores.

A convolution of dilation d with padding d is d x d plain ones, each on the pixels of one remainder (Yu and Koltun, ICLR 2016, as others
have built it). Those of PSPNet's and FCN's c4 and c5 and of LargeFOV's fc6 at 1024x2048, both ways in turns, moving pixels included.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.interleaved_timing import compared, in_turns
from benchmarks.harness.result_files import write_result

HW = (128, 256)  # 1024x2048 at stride 8
LAYERS = (("c4 3x3", 256, 256, 2), ("c5 3x3", 512, 512, 4), ("LargeFOV fc6", 512, 1024, 12))
RUNS = (("openvino", "bf16"), ("eager", "bf16"), ("eager", "fp32"))


class SpaceToBatch(nn.Module):
    """A 3x3 convolution of dilation d, as plain ones on the d x d remainders of rows and columns."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.step = conv.dilation[0]
        self.plain = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=False)
        self.plain.weight = conv.weight

    def forward(self, x: Tensor) -> Tensor:
        step, (height, width) = self.step, x.shape[2:]
        x = nn.functional.pad(x, (0, -width % step, 0, -height % step))
        n, c, tall, wide = x.shape
        parts = x.view(n, c, tall // step, step, wide // step, step).permute(3, 5, 0, 1, 2, 4)
        found = self.plain(parts.reshape(step * step * n, c, tall // step, wide // step))
        found = found.view(step, step, n, -1, tall // step, wide // step).permute(2, 3, 4, 0, 5, 1)
        return found.reshape(n, -1, tall, wide)[:, :, :height, :width]


def call_of(net: nn.Module, x: Tensor, runtime: str, precision: str) -> Callable[[], Any]:
    """The layer in a runtime."""
    if runtime == "eager":
        wanted = torch.bfloat16 if precision == "bf16" else torch.float32
        net, x = net.to(wanted).to(memory_format=torch.channels_last), x.to(wanted).contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return lambda: net(x)
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would call home
    import openvino  # type: ignore[import-not-found]

    graph = openvino.convert_model(net, example_input=x, input=list(x.shape))
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = openvino.compile_model(graph, "CPU", hints).create_infer_request()
    return lambda: request.infer({0: x.numpy()}, share_inputs=True)


@torch.no_grad()
def main() -> None:
    rows = []
    for name, cin, cout, step in LAYERS:
        for runtime, precision in RUNS:
            x = torch.randn(1, cin, *HW)
            conv = nn.Conv2d(cin, cout, 3, padding=step, dilation=step, bias=False).eval()
            moved = SpaceToBatch(conv).eval()
            torch.testing.assert_close(moved(x), conv(x), rtol=1e-3, atol=1e-3)
            calls = {
                "ours": call_of(conv, x, runtime, precision),
                "peer": call_of(SpaceToBatch(conv).eval(), x, runtime, precision),
            }
            row = {
                "layer": name,
                "channels": [cin, cout],
                "dilation": step,
                "hw": list(HW),
                "runtime": runtime,
                "precision": precision,
            }
            rows.append(row | compared(in_turns(calls, seconds=8)))
            print(rows[-1], flush=True)
    print(write_result("dilated_1024x2048", "python -m benchmarks.dilated", rows, packages=("openvino",)))


if __name__ == "__main__":
    main()
