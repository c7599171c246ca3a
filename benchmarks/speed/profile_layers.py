"""Where a network's time goes: ``python -m benchmarks.profile_layers icnet_half openvino bf16``, a minute or two each.

One picture of 1024x2048, 19 classes, random weights, the lean network from bytes to scores. Layers as the runtime runs them, added up
over repetitions and divided by their number; kinds of layers below. Runtimes that can tell: ``openvino`` (its own counters, layers
after fusion) and ``eager`` (torch's profiler, operators). ``training`` in their place is a whole training step of eight crops of
240x320: forward, loss, backward, optimiser.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from benchmarks.harness.result_files import write_result
from segzoo.engine.device import normalise
from segzoo.measured import lean_copy
from segzoo.registry import LOSSES, OPTIMS, RUNTIMES
from segzoo.runtimes._base import Order
from segzoo.subject import Subject, bench_pictures, subject

SIZE, CLASSES, TURNS, SHOWN = (1024, 2048), 19, 20, 30
CROP, BATCH = (240, 320), 8  # of the training step
SECONDS = 20.0  # after which no further repetition begins
DEEP = {"name": "resnet50", "stem": "deep", "stride_at": "1x1"}
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "icnet_half": ({"name": "icnet"}, {**DEEP, "width": 0.5}),
    "icnet": ({"name": "icnet"}, DEEP),
    "pspnet": ({"name": "pspnet"}, DEEP),
    "fcn_dilated": ({"name": "fcn_dilated"}, {"name": "resnet50"}),
    "parsenet": ({"name": "parsenet"}, {"name": "vgg16", "pool": "deeplab"}),
    "largefov": ({"name": "deeplab_largefov"}, {"name": "vgg16", "pool": "deeplab"}),
}
Layer = tuple[str, str, float]  # name, kind, milliseconds


def by_openvino(order: Order) -> Iterable[Layer]:
    """Mean milliseconds of each layer that ran."""
    from segzoo.runtimes.openvino import compiled

    request = compiled(order, 16, PERF_COUNT=True).create_infer_request()
    spent: dict[tuple[str, str], float] = defaultdict(float)

    def once() -> None:
        request.infer({0: order.example.numpy()}, share_inputs=True)
        for info in request.get_profiling_info():
            spent[info.node_name, f"{info.node_type} {info.exec_type}"] += info.real_time.total_seconds() * 1000

    repeated(once, 2)
    spent.clear()
    turns = repeated(once, TURNS)
    return [(name, kind, ms / turns) for (name, kind), ms in spent.items()]


def by_eager(order: Order) -> Iterable[Layer]:
    """Mean milliseconds of each operator and input shape."""
    call = RUNTIMES.build("eager", order)
    return by_torch(lambda: call(order.example))


def by_torch(once: Callable[[], object]) -> Iterable[Layer]:
    """Mean milliseconds of each operator and input shape in a call."""
    repeated(once, 3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        turns = repeated(once, TURNS)
    rows = profile.key_averages(group_by_input_shape=True)
    return [(str(row.input_shapes[:2]), row.key, row.self_cpu_time_total / 1000 / turns) for row in rows]


def repeated(once: Callable[[], object], most: int) -> int:
    """Calls until it was enough or took long enough; how often."""
    start = time.perf_counter()
    for turn in range(most):
        once()
        if time.perf_counter() - start > SECONDS:
            return turn + 1
    return most


def training_step(chosen: Subject, precision: str) -> Callable[[], object]:
    """One step of training in a number format."""
    model, place = chosen.model.train().to(memory_format=torch.channels_last), torch.device("cpu")  # type: ignore[call-overload]
    loss = LOSSES.build("cross_entropy", model.aux_weights, model.align_corners, 255, model.loss_at)
    optimizer = OPTIMS.build("sgd", model)
    picture = normalise(torch.from_numpy(np.stack(bench_pictures(chosen.data, BATCH, hw=CROP))), chosen.card, place)
    label = torch.randint(0, CLASSES, (BATCH, *CROP), dtype=torch.uint8)

    def once() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            terms = loss.terms(model(picture), label)
        optimizer.zero_grad()
        loss.total(terms).backward()
        optimizer.step()

    return once


def profiled(chosen: Subject, runtime: str, precision: str) -> Iterable[Layer]:
    """The layers of a picture in a runtime, or the operators of a training step."""
    if runtime == "training":
        return by_torch(training_step(chosen, precision))
    pictures = bench_pictures(chosen.data, 16, hw=SIZE)
    network = lean_copy(chosen.model, chosen.card, torch.device("cpu"))
    order = Order(network, torch.from_numpy(pictures[0][None]), precision, pictures)  # type: ignore[arg-type]
    return {"openvino": by_openvino, "eager": by_eager}[runtime](order)


def main(name: str, runtime: str, precision: str) -> None:
    model, trunk = NETWORKS[name]
    chosen = subject({"model": model, "backbone": trunk}, classes=CLASSES)
    layers = sorted(profiled(chosen, runtime, precision), key=lambda layer: -layer[2])
    kinds: dict[str, float] = defaultdict(float)
    for _, kind, ms in layers:
        kinds[kind] += ms
    hw = CROP if runtime == "training" else SIZE
    row = {"model": name, "runtime": runtime, "precision": precision, "hw": list(hw), "total_ms": sum(kinds.values())}
    row["kinds"] = [{"kind": kind, "ms": ms} for kind, ms in sorted(kinds.items(), key=lambda item: -item[1]) if ms > 0.01]
    row["layers"] = [{"name": layer, "kind": kind, "ms": ms} for layer, kind, ms in layers[:SHOWN]]
    for entry in [*row["kinds"][:12], *row["layers"]]:
        print("{ms:8.2f}  {kind}  {name}".format(**{"name": ""} | entry))
    print(f"{row['total_ms']:8.2f}  together")
    command = f"python -m benchmarks.profile_layers {name} {runtime} {precision}"
    print(write_result(f"profile_{name}_{runtime}_{precision}", command, [row], packages=("openvino",)))


if __name__ == "__main__":
    main(*sys.argv[1:])
