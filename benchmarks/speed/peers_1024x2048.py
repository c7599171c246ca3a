"""Latency from image to labels at 1024x2048 compared with peer libraries.

Batch 1, 19 classes, random weights (segzoo's with calibrated batch norm), the same image on both sides, both in the same runtime of segzoo. Peers run
unmodified: they upsample all logits and take the argmax inside the graph. In OpenVINO they are converted directly from torch, because
the ONNX exporter does not finish on mmsegmentation's PSPNet. segzoo's network is fused for inference and upsamples only what the argmax
needs. A matrix product is interleaved with both, so that each row records how fast the machine was at that time (bf16 for int8 rows).

About 40 minutes on two cores. Each network has its own result file, written only if neither --runtime nor --precision is given. Needs
"segzoo[peers,export,openvino]".
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness.interleaved_timing import compare_to_peer, time_interleaved
from benchmarks.harness.models import NETWORKS
from benchmarks.harness.result_files import write_result
from segzoo.export.formats import ExportModel
from segzoo.layers.upsample_argmax import upsample_argmax
from segzoo.registry import RUNTIMES
from segzoo.runtimes._base import RuntimeRequest
from segzoo.runtimes.openvino import compile_graph
from segzoo.runtimes.openvino import inference_fn as openvino_call
from segzoo.types import DatasetInfo, Logits
from segzoo.workflows.benchmark.model_summary import model_complexity
from segzoo.workflows.benchmark.workload import benchmark_images, build_workload

SIZE, CLASSES = (1024, 2048), 19
# name -> segzoo's settings, and the peers to compare with
CASES: dict[str, tuple[dict[str, dict[str, Any]], tuple[str, ...]]] = {
    "icnet_half": (NETWORKS["icnet_half"], ("mmseg icnet_r18", "mmseg icnet_r50")),
    "pspnet": ({"model": {"name": "pspnet"}, "backbone": {"name": "resnet50", "stem": "v1c"}}, ("mmseg pspnet_r50",)),
    "pspnet_32": ({"model": {"name": "pspnet", "output_stride": 32}, "backbone": {"name": "resnet50"}}, ("smp pspnet",)),
    "fcn_dilated": (NETWORKS["fcn_dilated"], ("torchvision fcn_resnet50",)),
    "parsenet": (NETWORKS["parsenet"], ("plain parsenet",)),
    "largefov": (NETWORKS["largefov"], ("plain largefov",)),
}
CALIBRATION_IMAGES = 8  # synthetic ones, from which int8 takes its ranges on both sides
MATRIX_SIZE = 2048  # of the square matrices whose product gives the machine's speed
RUNS = (("openvino", "bf16"), ("eager", "bf16"))
MORE_RUNS = {  # one network only: quantizing another takes a quarter of an hour
    "icnet_half": (("openvino", "int8"), ("openvino", "fp32"), ("eager", "fp32"))
}
PACKAGES = ("mmsegmentation", "segmentation-models-pytorch", "openvino", "onnxruntime", "nncf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that narrow the selection."""
    parser.add_argument("--model", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    parser.add_argument("--runtime", choices=("openvino", "eager"))
    parser.add_argument("--precision", choices=("bf16", "fp32", "int8"))


class Peer(nn.Module):
    """Another library's network with the interface that segzoo's runtimes expect."""

    def __init__(self, net: nn.Module, logits: Callable[[nn.Module, Tensor], Tensor], align_corners: bool):
        super().__init__()
        self.net, self.logits, self.align_corners, self.num_classes = net, logits, align_corners, CLASSES

    def forward(self, x: Tensor) -> Logits:
        return Logits(self.logits(self.net, x))


def build_peer(name: str) -> Peer:
    """Build the peer called ``<library> <model>`` in evaluation mode."""
    library, _, model = name.partition(" ")
    if library == "mmseg":
        from benchmarks.harness.mmseg_import import mmseg_model

        config = {"pspnet_r50": "pspnet_r50-d8_4xb2-40k_cityscapes-512x1024"}.get(model, f"{model}-d8_4xb2-80k_cityscapes-832x832")
        return Peer(mmseg_model(config), lambda net, x: net.decode_head(net.extract_feat(x)), False).eval()  # type: ignore[operator]
    if library == "smp":
        from segmentation_models_pytorch import PSPNet  # pyright: ignore[reportMissingImports]

        net = PSPNet("resnet50", encoder_weights=None, encoder_depth=5, classes=CLASSES, upsampling=1)
        return Peer(net, lambda net, x: net(x), True).eval()
    if library == "torchvision":
        from torchvision.models.segmentation import fcn_resnet50

        net = fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES)
        return Peer(net, lambda net, x: net.classifier(net.backbone(x)["out"]), False).eval()  # type: ignore[operator]
    from benchmarks.harness.vgg_baselines import PlainLargeFOV, PlainParseNet

    return Peer({"parsenet": PlainParseNet, "largefov": PlainLargeFOV}[model](CLASSES), lambda net, x: net(x), False).eval()


def build_call(
    net: nn.Module, output: str, runtime: str, precision: str, images: list[np.ndarray], info: DatasetInfo
) -> Callable[[Tensor], Tensor]:
    """Build a network in one of segzoo's runtimes.

    The first image is the one that is timed; int8 is calibrated on the others.
    """
    deployed = ExportModel(net, info.mean, info.std, input="uint8", output=output).eval()  # type: ignore[arg-type]
    image = torch.from_numpy(images[0][None])
    request = RuntimeRequest(deployed, image, precision, images[1:])  # type: ignore[arg-type]
    if runtime == "openvino" and isinstance(net, Peer):
        import openvino  # type: ignore[import-not-found]

        graph = openvino.convert_model(deployed, example_input=image, input=list(image.shape))
        return openvino_call(compile_graph(graph, request, num_calibration_images=len(request.calibration_images)))
    return RUNTIMES.build(runtime, request)


def measure(name: str, runtime: str, precision: str) -> list[dict[str, Any]]:
    """Compare segzoo's network with each of its peers."""
    config, peers = CASES[name]
    workload = build_workload(config, num_classes=CLASSES)
    images = benchmark_images(workload.images, 1 + CALIBRATION_IMAGES, hw=SIZE)
    image, align = torch.from_numpy(images[0][None]), bool(workload.model.align_corners)
    fp32_labels = torch.from_numpy(workload.model.predict(images[0]).labels)
    workload.model.fuse_for_inference_()
    gmacs = model_complexity(workload.model, SIZE)["gmacs"]
    net = build_call(workload.model, "logits", runtime, precision, images, workload.info)
    agreement = (upsample_argmax(net(image), SIZE, align)[0] == fp32_labels).double().mean().item()
    matrix = torch.randn(MATRIX_SIZE, MATRIX_SIZE).to(torch.float32 if precision == "fp32" else torch.bfloat16)
    rows = []
    for peer in peers:
        peer_net = build_call(build_peer(peer), "labels", runtime, precision, images, workload.info)
        calls = {
            "segzoo": lambda: upsample_argmax(net(image), SIZE, align),
            "peer": lambda peer_net=peer_net: peer_net(image),
            "net": lambda: net(image),
            "matmul": lambda: torch.mm(matrix, matrix),
        }
        taken = time_interleaved(calls, seconds=20, min_rounds=8, warmup=2)
        tflops = 2 * MATRIX_SIZE**3 / statistics.median(taken["matmul"]) / 1e12
        row = {"model": name, "peer": peer, "runtime": runtime, "precision": precision, "hw": list(SIZE), "batch": 1}
        row |= compare_to_peer(taken["segzoo"], taken["peer"]) | {
            "agreement": agreement,
            "ours_net_ms": 1000 * statistics.median(taken["net"]),
        }
        rows.append(row | {"gmacs": gmacs, "machine_tflops": tflops, "at_peak_ms": 2 * gmacs / tflops})
        print(rows[-1], flush=True)
        gc.collect()
    return rows


def main(args: argparse.Namespace) -> None:
    """Measure the selected networks, one result file each."""
    for name in args.model:
        runs = (*RUNS, *MORE_RUNS.get(name, ()))
        runs = [run for run in runs if args.runtime in (None, run[0]) and args.precision in (None, run[1])]
        rows = [row for run in runs for row in measure(name, *run)]
        if not (args.runtime or args.precision):
            print(write_result(f"peers_1024x2048_{name}", args.command, rows, packages=PACKAGES), flush=True)
