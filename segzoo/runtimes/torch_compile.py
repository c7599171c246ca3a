"""``torch.compile``: C++ on CPUs, Triton on CUDA, optionally with CUDA graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from segzoo.registry import RUNTIMES
from segzoo.runtimes._base import InferenceFn, RuntimeRequest, RuntimeUnavailable, as_float32, supports_precisions
from segzoo.runtimes.eager import DTYPES, autocast, cast_to_precision


@RUNTIMES.register
@supports_precisions(*DTYPES)
def torch_compile(request: RuntimeRequest, *, channels_last: bool = True, cuda_graphs: bool = False) -> InferenceFn:
    """Compile the network for the requested size.

    The first call takes half a minute or more.

    Args:
        request: the network and its conditions, in fp32, bf16 or fp16.
        channels_last: keep feature maps in (N, H, W, C) memory order.
        cuda_graphs: on CUDA, launch all kernels of a call as one graph.

    Raises:
        RuntimeUnavailable: if the machine has no compiler, or CUDA graphs are requested without CUDA or cannot be captured.
    """
    from torch._dynamo.utils import counters
    from torch._inductor import config as inductor  # imported here because it takes seconds
    from torch._inductor.exc import GPUTooOldForTriton, InductorError, TritonMissing

    if cuda_graphs and not request.example.is_cuda:
        raise RuntimeUnavailable("CUDA graphs need CUDA: set device=cuda, or runtime=torch_compile")
    network = cast_to_precision(request, channels_last)
    with inductor.patch(freezing=True):  # weights become constants, in the memory layout of each kernel
        compiled = torch.compile(network, dynamic=False, mode="reduce-overhead" if cuda_graphs else None)

        @torch.no_grad()
        def run(images: Tensor) -> Tensor:
            with autocast(request), inductor.patch(freezing=True):
                logits = as_float32(compiled(images)[0])
                return logits.clone() if cuda_graphs else logits  # the next call overwrites the output of a graph

        try:
            skipped = counters["inductor"]["cudagraph_skips"]
            run(request.example)
            if cuda_graphs and counters["inductor"]["cudagraph_skips"] > skipped:  # Inductor runs without a graph and only logs it
                raise RuntimeUnavailable(
                    "torch_compile could not capture a CUDA graph: TORCH_LOGS=perf_hints shows why; set cuda_graphs=false"
                )
        except (InductorError, TritonMissing, GPUTooOldForTriton) as error:
            hint = "a CPU needs a C++ compiler such as g++, CUDA needs triton"
            raise RuntimeUnavailable(f"torch_compile: {str(error).splitlines()[0]}; {hint}") from None
    return run
