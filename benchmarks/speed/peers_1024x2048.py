"""Milliseconds from a picture of 1024x2048 to its label map beside the peers, each pair in one runtime, taken in turns.

    python -m benchmarks.beside_peers_1024x2048                            # everything, about 40 minutes on two cores
    python -m benchmarks.beside_peers_1024x2048 icnet_half pspnet          # some of the networks, each of which has its result file
    python -m benchmarks.beside_peers_1024x2048 icnet_half openvino bf16   # less than that is only printed

Batch 1, 19 classes, random weights with settled norms, the same picture. Both sides run in our runtimes, from bytes to labels: the
peers as they stand, growing all their scores and taking the arg-max inside, in OpenVINO by its own reader of torch modules, since the
ONNX exporter does not come to an end with mmsegmentation's PSPNet; ours lean, growing what the arg-max needs. A matrix
product takes its turn too, so that each row tells how fast the machine was just then (int8: of bf16).
"""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.interleaved_timing import compared, in_turns
from benchmarks.harness.result_files import write_result
from segzoo.describe import counted
from segzoo.export import Deployed
from segzoo.layers.labels import grow_labels
from segzoo.registry import RUNTIMES
from segzoo.runtimes._base import Order
from segzoo.runtimes.openvino import call_of as openvino_call
from segzoo.runtimes.openvino import compiled_graph
from segzoo.subject import bench_pictures, subject
from segzoo.types import Logits

SIZE, CLASSES = (1024, 2048), 19
DEEP = {"name": "resnet50", "stem": "deep", "stride_at": "1x1"}
VGG = {"name": "vgg16", "pool": "deeplab"}
# name -> our model and trunk, and the peers
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "icnet_half": ({"name": "icnet"}, {**DEEP, "width": 0.5}, ("mmseg icnet_r18", "mmseg icnet_r50")),
    "pspnet": ({"name": "pspnet"}, {"name": "resnet50", "stem": "v1c"}, ("mmseg pspnet_r50",)),
    "pspnet_32": ({"name": "pspnet", "output_stride": 32}, {"name": "resnet50"}, ("smp pspnet",)),
    "fcn_dilated": ({"name": "fcn_dilated"}, {"name": "resnet50"}, ("torchvision fcn_resnet50",)),
    "parsenet": ({"name": "parsenet"}, VGG, ("plain parsenet",)),
    "largefov": ({"name": "deeplab_largefov"}, VGG, ("plain largefov",)),
}
CALIBRATING = 8  # pictures, drawn ones, from which int8 takes its ranges on both sides
SIDE = 2048  # of the matrices whose product tells the machine's speed
RUNS = (("openvino", "bf16"), ("eager", "bf16"))
MORE = {
    "icnet_half": (("openvino", "int8"), ("openvino", "fp32"), ("eager", "fp32"))
}  # the others take a quarter of an hour to quantise


class Peer(nn.Module):
    """Another library's network in the shape that our runtimes take."""

    def __init__(self, net: nn.Module, scores: Callable[[nn.Module, Tensor], Tensor], align_corners: bool):
        super().__init__()
        self.net, self.scores, self.align_corners, self.num_classes = net, scores, align_corners, CLASSES

    def forward(self, x: Tensor) -> Logits:
        return Logits(self.scores(self.net, x))


def peer(name: str) -> Peer:
    """The peer of that name, in evaluation mode."""
    library, _, model = name.partition(" ")
    if library == "mmseg":
        from benchmarks.harness.mmseg_import import mmseg_model

        config = {"pspnet_r50": "pspnet_r50-d8_4xb2-40k_cityscapes-512x1024"}.get(model, f"{model}-d8_4xb2-80k_cityscapes-832x832")
        return Peer(mmseg_model(config), lambda net, x: net.decode_head(net.extract_feat(x)), False).eval()  # type: ignore[operator]
    if library == "smp":
        from segmentation_models_pytorch import PSPNet

        net = PSPNet("resnet50", encoder_weights=None, encoder_depth=5, classes=CLASSES, upsampling=1)
        return Peer(net, lambda net, x: net(x), True).eval()
    if library == "torchvision":
        from torchvision.models.segmentation import fcn_resnet50

        net = fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES)
        return Peer(net, lambda net, x: net.classifier(net.backbone(x)["out"]), False).eval()  # type: ignore[operator]
    from benchmarks.harness.vgg_baselines import PlainLargeFOV, PlainParseNet

    return Peer({"parsenet": PlainParseNet, "largefov": PlainLargeFOV}[model](CLASSES), lambda net, x: net(x), False).eval()


def call_of(net: nn.Module, gives: str, runtime: str, precision: str, pictures: list[Any], card: Any) -> Callable[[Tensor], Tensor]:
    """A network in one of our runtimes; int8 takes its ranges from all pictures but the first, which is timed."""
    deployed = Deployed(net, card.mean, card.std, takes="uint8", gives=gives).eval()  # type: ignore[arg-type]
    picture = torch.from_numpy(pictures[0][None])
    order = Order(deployed, picture, precision, pictures[1:])  # type: ignore[arg-type]
    if runtime == "openvino" and isinstance(net, Peer):
        import openvino  # type: ignore[import-not-found]

        graph = openvino.convert_model(deployed, example_input=picture, input=list(picture.shape))
        return openvino_call(compiled_graph(graph, order, calibrate=len(order.pictures)))
    return RUNTIMES.build(runtime, order)


def measure(name: str, runtime: str, precision: str) -> list[dict[str, Any]]:
    """Our network beside each of its peers."""
    model, trunk, peers = CASES[name]
    chosen = subject({"model": model, "backbone": trunk}, classes=CLASSES)
    pictures = bench_pictures(chosen.data, 1 + CALIBRATING, hw=SIZE)
    picture, align = torch.from_numpy(pictures[0][None]), bool(chosen.model.align_corners)
    truth = torch.from_numpy(chosen.model.predict(pictures[0]))
    chosen.model.lean_()
    gmacs = counted(chosen.model, SIZE)["gmacs"]
    net = call_of(chosen.model, "logits", runtime, precision, pictures, chosen.card)
    equal = (grow_labels(net(picture), SIZE, align)[0] == truth).double().mean().item()
    matrix = torch.randn(SIDE, SIDE).to(torch.float32 if precision == "fp32" else torch.bfloat16)
    rows = []
    for other in peers:
        theirs = call_of(peer(other), "labels", runtime, precision, pictures, chosen.card)
        taken = in_turns(
            {
                "ours": lambda: grow_labels(net(picture), SIZE, align),
                "peer": lambda theirs=theirs: theirs(picture),
                "net": lambda: net(picture),
                "product": lambda: torch.mm(matrix, matrix),
            },
            seconds=20,
            least=8,
            warm=2,
        )
        tflops = 2 * SIDE**3 / statistics.median(taken["product"]) / 1e12
        spent = {
            "agreement": equal,
            "ours_net_ms": 1000 * statistics.median(taken["net"]),
            "gmacs": gmacs,
            "machine_tflops": tflops,
        }
        row = {"model": name, "peer": other, "runtime": runtime, "precision": precision, "hw": list(SIZE), "batch": 1}
        rows.append(row | compared(taken) | spent | {"at_peak_ms": 2 * gmacs / tflops})
        print(rows[-1], flush=True)
        gc.collect()
    return rows


def main(words: list[str]) -> None:
    names, runs = [word for word in words if word in CASES], {word for word in words if word not in CASES}
    packages = ("mmsegmentation", "segmentation-models-pytorch", "openvino", "onnxruntime", "nncf")
    for name in names or CASES:
        wanted = [run for run in (*RUNS, *MORE.get(name, ())) if runs <= set(run)]
        rows = [row for run in wanted for row in measure(name, *run)]
        if not runs:
            command = f"python -m benchmarks.beside_peers_1024x2048 {name}"
            print(write_result(f"peers_1024x2048_{name}", command, rows, packages=packages), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
