"""Time per layer or operator of one network in one runtime.

One image of 1024x2048, 19 classes, random weights, the network fused for inference, from the decoded image to its logits. Layers are reported as the
runtime executes them, averaged over repetitions, and summed by kind. Two runtimes provide such times: openvino (its own counters, layers
after fusion) and eager (torch's profiler, operators). The runtime "training" stands for one training step of eight crops of 320x240:
forward, loss, backward and optimizer.

One or two minutes each.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from benchmarks.harness.models import NETWORKS
from benchmarks.harness.result_files import write_result
from segzoo.layers.normalize import normalize
from segzoo.registry import LOSSES, OPTIMS, RUNTIMES
from segzoo.runtimes._base import RuntimeRequest
from segzoo.workflows.benchmark.runner import inference_copy
from segzoo.workflows.benchmark.workload import Workload, benchmark_images, build_workload

SIZE, CLASSES = (1024, 2048), 19
CROP, BATCH = (240, 320), 8  # of the training step
REPETITIONS, SECONDS = 20, 20.0  # whichever is reached first
LAYERS_KEPT = 30  # in the result file
CALIBRATION_IMAGES = 16
Layer = tuple[str, str, float]  # name, kind, milliseconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to profile."""
    parser.add_argument("model", choices=NETWORKS)
    parser.add_argument("runtime", choices=("openvino", "eager", "training"))
    parser.add_argument("precision", choices=("bf16", "fp32", "int8"))


def profile_openvino(request: RuntimeRequest) -> Iterable[Layer]:
    """Return the mean milliseconds of each executed layer."""
    from segzoo.runtimes.openvino import compile_network

    infer_request = compile_network(request, CALIBRATION_IMAGES, PERF_COUNT=True).create_infer_request()
    spent: dict[tuple[str, str], float] = defaultdict(float)

    def infer() -> None:
        infer_request.infer({0: request.example.numpy()}, share_inputs=True)
        for info in infer_request.get_profiling_info():
            spent[info.node_name, f"{info.node_type} {info.exec_type}"] += info.real_time.total_seconds() * 1000

    repeat(infer, 2)
    spent.clear()
    count = repeat(infer, REPETITIONS)
    return [(name, kind, ms / count) for (name, kind), ms in spent.items()]


def profile_eager(request: RuntimeRequest) -> Iterable[Layer]:
    """Return the mean milliseconds of each operator and input shape in inference."""
    call = RUNTIMES.build("eager", request)
    return profile_torch(lambda: call(request.example))


def profile_torch(call: Callable[[], object]) -> Iterable[Layer]:
    """Return the mean milliseconds per operator and input shape of a call."""
    repeat(call, 3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        count = repeat(call, REPETITIONS)
    rows = profile.key_averages(group_by_input_shape=True)
    return [(str(row.input_shapes[:2]), row.key, row.self_cpu_time_total / 1000 / count) for row in rows]


def repeat(call: Callable[[], object], max_count: int) -> int:
    """Repeat a call until the count or time limit is reached.

    Returns:
        The number of calls.
    """
    start = time.perf_counter()
    for number in range(max_count):
        call()
        if time.perf_counter() - start > SECONDS:
            return number + 1
    return max_count


def training_step(workload: Workload, precision: str) -> Callable[[], object]:
    """Return a call that runs one training step."""
    model, device = workload.model.train().to(memory_format=torch.channels_last), torch.device("cpu")  # type: ignore[call-overload]
    loss = LOSSES.build("cross_entropy", model.aux_weights, model.align_corners, 255, model.loss_resolution)
    optimizer = OPTIMS.build("sgd", model)
    images = normalize(torch.from_numpy(np.stack(benchmark_images(workload.images, BATCH, hw=CROP))), workload.info, device)
    label = torch.randint(0, CLASSES, (BATCH, *CROP), dtype=torch.uint8)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            terms = loss.terms(model(images), label)
        optimizer.zero_grad()
        loss.total(terms).backward()
        optimizer.step()

    return step


def profile(workload: Workload, runtime: str, precision: str) -> Iterable[Layer]:
    """Return the layers of inference or the operators of a training step."""
    if runtime == "training":
        return profile_torch(training_step(workload, precision))
    images = benchmark_images(workload.images, CALIBRATION_IMAGES, hw=SIZE)
    network = inference_copy(workload.model, workload.info, torch.device("cpu"))
    request = RuntimeRequest(network, torch.from_numpy(images[0][None]), precision, images)  # type: ignore[arg-type]
    return {"openvino": profile_openvino, "eager": profile_eager}[runtime](request)


def main(args: argparse.Namespace) -> None:
    """Profile one network and keep its layers as a result file."""
    workload = build_workload(NETWORKS[args.model], num_classes=CLASSES)
    layers = sorted(profile(workload, args.runtime, args.precision), key=lambda layer: -layer[2])
    kinds: dict[str, float] = defaultdict(float)
    for _, kind, ms in layers:
        kinds[kind] += ms
    hw = CROP if args.runtime == "training" else SIZE
    row: dict[str, Any] = {"model": args.model, "runtime": args.runtime, "precision": args.precision, "hw": list(hw)}
    row["total_ms"] = sum(kinds.values())
    row["kinds"] = [{"kind": kind, "ms": ms} for kind, ms in sorted(kinds.items(), key=lambda item: -item[1]) if ms > 0.01]
    row["layers"] = [{"name": layer, "kind": kind, "ms": ms} for layer, kind, ms in layers[:LAYERS_KEPT]]
    for entry in [*row["kinds"][:12], *row["layers"]]:
        print("{ms:8.2f}  {kind}  {name}".format(**{"name": ""} | entry))
    print(f"{row['total_ms']:8.2f}  total")
    print(write_result(f"profile_{args.model}_{args.runtime}_{args.precision}", args.command, [row], packages=("openvino",)))
