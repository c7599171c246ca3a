"""PyTorch through its compiler: C++ on CPUs, Triton kernels on CUDA, there as one captured graph if wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from segzoo.registry import RUNTIMES
from segzoo.runtimes._base import Call, RuntimeRequest, RuntimeUnavailable, classifier_layers, supports_precisions
from segzoo.runtimes.eager import DTYPES, autocast, cast_to_precision


@RUNTIMES.register
@supports_precisions(*DTYPES)
def torch_compile(order: RuntimeRequest, *, channels_last: bool = True, cuda_graphs: bool = False) -> Call:
    """Compiles the network for the order's size; the first call takes half a minute or more.

    Args:
        order: what to run; fp32, bf16 or fp16.
        channels_last: keep maps as (N, H, W, C) in memory.
        cuda_graphs: on CUDA, start all kernels of a call at once.

    Raises:
        RuntimeUnavailable: there is no compiler on this machine, or graphs were asked for without CUDA or could not be captured.
    """
    from torch._dynamo.utils import counters
    from torch._inductor import config as inductor  # seconds, so not before it is wanted
    from torch._inductor.exc import GPUTooOldForTriton, InductorError, TritonMissing

    if cuda_graphs and not order.example.is_cuda:
        raise RuntimeUnavailable("graphs are captured on CUDA alone: say device=cuda, or runtime=torch_compile")
    net = cast_to_precision(order, channels_last)
    with inductor.patch(freezing=True):  # weights become constants in the layout that each kernel likes
        compiled = torch.compile(net, dynamic=False, mode="reduce-overhead" if cuda_graphs else None)

        @torch.no_grad()
        def call(pictures: Tensor) -> Tensor:
            with autocast(order), inductor.patch(freezing=True):
                found = classifier_layers(compiled(pictures)[0])
                return found.clone() if cuda_graphs else found  # the next call writes over a graph's output

        try:
            skipped = counters["inductor"]["cudagraph_skips"]
            call(order.example)
            if cuda_graphs and counters["inductor"]["cudagraph_skips"] > skipped:  # it goes on without, and only logs that
                raise RuntimeUnavailable(
                    "torch_compile could not capture the network as a graph, TORCH_LOGS=perf_hints tells why; leave graphs away"
                )
        except (InductorError, TritonMissing, GPUTooOldForTriton) as error:
            needs = "on a CPU it needs a C++ compiler such as g++, on CUDA triton"
            raise RuntimeUnavailable(f"torch_compile: {str(error).splitlines()[0]}; {needs}") from None
    return call
