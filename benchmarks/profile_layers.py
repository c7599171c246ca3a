"""Where a network's time goes: ``python -m benchmarks.profile_layers icnet_half openvino bf16``.

One picture of 1024x2048, 19 classes, random weights, the lean network from bytes to scores. Layers as the runtime runs them, added up
over repetitions and divided by their number; kinds of layers below. Runtimes that can tell: ``openvino`` (its own counters, layers
after fusion) and ``eager`` (torch's profiler, operators).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

from benchmarks.results import write_result
from segzoo.measured import lean_copy
from segzoo.registry import RUNTIMES
from segzoo.runtimes._base import Order
from segzoo.subject import bench_pictures, subject

SIZE, CLASSES, TURNS, SHOWN = (1024, 2048), 19, 20, 30
DEEP = {"name": "resnet50", "stem": "deep", "stride_at": "1x1"}
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "icnet_half": ({"name": "icnet"}, {**DEEP, "width": 0.5}),
    "icnet": ({"name": "icnet"}, DEEP),
    "pspnet": ({"name": "pspnet"}, DEEP),
    "fcn_dilated": ({"name": "fcn_dilated"}, {"name": "resnet50"}),
    "largefov": ({"name": "deeplab_largefov"}, {"name": "vgg16", "pool": "deeplab"}),
}
Layer = tuple[str, str, float]  # name, kind, milliseconds


def by_openvino(order: Order) -> Iterable[Layer]:
    """Mean milliseconds of each layer that ran."""
    from segzoo.runtimes.openvino import compiled

    request = compiled(order, 16, PERF_COUNT=True).create_infer_request()
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for turn in range(TURNS + 3):
        request.infer({0: order.example.numpy()}, share_inputs=True)
        if turn < 3:
            continue
        for info in request.get_profiling_info():
            spent[info.node_name, f"{info.node_type} {info.exec_type}"] += info.real_time.total_seconds() * 1000 / TURNS
    return [(name, kind, ms) for (name, kind), ms in spent.items()]


def by_eager(order: Order) -> Iterable[Layer]:
    """Mean milliseconds of each operator and input shape."""
    call = RUNTIMES.build("eager", order)
    for _ in range(3):
        call(order.example)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        for _ in range(TURNS):
            call(order.example)
    rows = profile.key_averages(group_by_input_shape=True)
    return [(str(row.input_shapes[:2]), row.key, row.self_cpu_time_total / 1000 / TURNS) for row in rows]


def main(name: str, runtime: str, precision: str) -> None:
    model, trunk = NETWORKS[name]
    chosen = subject({"model": model, "backbone": trunk}, classes=CLASSES)
    pictures = bench_pictures(chosen.data, 16, hw=SIZE)
    network = lean_copy(chosen.model, chosen.card, torch.device("cpu"))
    order = Order(network, torch.from_numpy(pictures[0][None]), precision, pictures)  # type: ignore[arg-type]
    layers = sorted({"openvino": by_openvino, "eager": by_eager}[runtime](order), key=lambda layer: -layer[2])
    kinds: dict[str, float] = defaultdict(float)
    for _, kind, ms in layers:
        kinds[kind] += ms
    row = {"model": name, "runtime": runtime, "precision": precision, "hw": list(SIZE), "total_ms": sum(kinds.values())}
    row["kinds"] = [{"kind": kind, "ms": ms} for kind, ms in sorted(kinds.items(), key=lambda item: -item[1]) if ms > 0.01]
    row["layers"] = [{"name": layer, "kind": kind, "ms": ms} for layer, kind, ms in layers[:SHOWN]]
    for entry in [*row["kinds"][:12], *row["layers"]]:
        print("{ms:8.2f}  {kind}  {name}".format(**{"name": ""} | entry))
    print(f"{row['total_ms']:8.2f}  together")
    print(
        write_result(
            f"profile_{name}_{runtime}_{precision}", f"python -m benchmarks.profile_layers {name} {runtime} {precision}", [row]
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
