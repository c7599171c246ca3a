"""Training steps of segzoo's networks and of their peers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness.models import NETWORKS
from segzoo.api import create_model
from segzoo.device import FloatFormat, Precision, configure_allocator, peak_memory, reset_peak_memory
from segzoo.registry import LOSSES, OPTIMS
from segzoo.training.step import compile_network

CLASSES = 19
CPU = torch.device("cpu")
# of all sides: the one that segzoo's trainings choose in fp32 on this processor
MEMORY_FORMAT = torch.channels_last if Precision("fp32", CPU).picks_channels_last("auto") else torch.contiguous_format
SAME_LAYERS = "_same_layers"  # suffix of a case whose peer has the layers of segzoo's network
PSPNET_32: dict[str, dict[str, Any]] = {
    "model": {"name": "pspnet", "output_stride": 32, "aux_weight": 0},
    "backbone": {"name": "resnet50"},
}
# name -> segzoo's settings, and the peer. smp's PSPNet fuses the pyramid by a 1x1 convolution, the paper's by 3x3
CASES: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "icnet_half": (NETWORKS["icnet_half"], "mmseg icnet_r18-d8_4xb2-80k_cityscapes-832x832"),
    "pspnet": (
        {"model": {"name": "pspnet"}, "backbone": {"name": "resnet50", "stem": "v1c"}},
        "mmseg pspnet_r50-d8_4xb2-40k_cityscapes-512x1024",
    ),
    "pspnet_32": (PSPNET_32, "smp PSPNet"),
    f"pspnet_32{SAME_LAYERS}": (PSPNET_32, "smp PSPNet with 3x3 fusion"),
    "fcn_dilated": (NETWORKS["fcn_dilated"], "torchvision fcn_resnet50"),
    "parsenet": (NETWORKS["parsenet"], "plain PlainParseNet"),
    "largefov": (NETWORKS["largefov"], "plain PlainLargeFOV"),
}
Heads = list[tuple[float, Tensor]]  # weight in the loss and logits of each head
Loss = Callable[[Tensor, Tensor], Tensor]  # images (N, 3, H, W) and labels (N, H, W) -> loss


def crop_of(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Enlarge crops to what the peer of a case takes.

    segmentation-models-pytorch requires multiples of 32.
    """
    height, width = size
    return (-(-height // 32) * 32, -(-width // 32) * 32) if CASES[name][1].startswith("smp ") else (height, width)


def case_columns(name: str, size: tuple[int, int], batch: int, rounds: int) -> dict[str, Any]:
    """Columns that the sides of a case share."""
    return {
        "model": name.removesuffix(SAME_LAYERS),
        "peer": CASES[name][1].partition("-")[0],
        "hw": list(size),
        "batch": batch,
        "rounds": rounds,
    }


def build_segzoo(name: str, side: str) -> tuple[nn.Module, Loss]:
    """Build segzoo's network and its loss at the resolution of the paper.

    Args:
        name, side: as for ``build_step``.
    """
    settings, _ = CASES[name]
    backbone, options = {**settings["backbone"], "checkpoint": side == "checkpoint"}, dict(settings["model"])
    model = create_model(options.pop("name"), backbone, CLASSES, **options)
    loss = LOSSES.build("cross_entropy", model.aux_weights, model.align_corners, resolution=model.loss_resolution)
    network = compile_network(model) if side == "compiled" else model
    return model, lambda x, label: loss(network(x), label)


def build_peer(name: str) -> tuple[nn.Module, Loss]:
    """Build the peer of a network.

    Its loss upsamples all logits to the label.
    """
    library, _, entry = CASES[name][1].partition(" ")
    model, heads = {"mmseg": _mmseg, "smp": _smp, "torchvision": _torchvision, "plain": _plain}[library](entry)

    def loss(x: Tensor, label: Tensor) -> Tensor:
        upsampled = [
            (weight, F.interpolate(head, label.shape[1:], mode="bilinear", align_corners=False)) for weight, head in heads(x)
        ]
        return torch.stack([weight * F.cross_entropy(head, label, ignore_index=255) for weight, head in upsampled]).sum()

    return model, loss


def build_step(name: str, side: str, precision: FloatFormat = "fp32") -> tuple[nn.Module, Callable[[Tensor, Tensor], None]]:
    """Build a network in training and its optimizer step.

    Args:
        name: a key of ``CASES``.
        side: ``segzoo``, ``no_reuse`` (segzoo with reuse_memory=false), ``checkpoint`` (also with backbone.checkpoint=true), ``compiled``
            (segzoo with compile=true) or ``peer``.
        precision: of the network. Both sides compute the forward pass and the loss under autocast.
    """
    torch.manual_seed(0)
    autocast = Precision(precision, CPU).autocast
    model, loss = build_peer(name) if side == "peer" else build_segzoo(name, side)
    model.train().to(memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
    if side == "peer":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4)
    else:
        optimizer = OPTIMS.build("sgd", model)

    def step(x: Tensor, label: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            value = loss(x, label)
        value.backward()
        optimizer.step()

    return model, step


def random_batch(size: tuple[int, int], batch: int) -> tuple[Tensor, Tensor]:
    """Random images in the memory order of the networks, and labels."""
    images = torch.randn(batch, 3, *size).contiguous(memory_format=MEMORY_FORMAT)
    return images, torch.randint(0, CLASSES, (batch, *size))


def train_briefly(name: str, side: str, size: tuple[int, int], batch: int, steps: int) -> dict[str, Any]:
    """Measure a few steps in a new process.

    Returns:
        ``peak_mb``, the peak resident memory above that of the process without the network, and ``seconds`` of the steps after the first.
    """
    if side != "peer":
        configure_allocator(reuse_memory=side == "segzoo")  # as tools/train.py does
    model, step = build_step(name, side)
    x, label = random_batch(size, batch)
    reset_peak_memory(CPU)
    before = peak_memory(CPU) - sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers(), x, label))
    seconds = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        step(x, label)
        seconds.append(time.perf_counter() - start)
    return {"peak_mb": (peak_memory(CPU) - before) / 1e6, "seconds": seconds[1:]}


def _mmseg(config: str) -> tuple[nn.Module, Callable[[Tensor], Heads]]:
    from benchmarks.harness.mmseg_import import mmseg_model

    model = mmseg_model(config)
    auxiliary = model.auxiliary_head
    heads = [model.decode_head, *(auxiliary if isinstance(auxiliary, nn.ModuleList) else [auxiliary])]

    def run(x: Tensor) -> Heads:
        features = model.extract_feat(x)
        return [(head.loss_decode.loss_weight, head(features)) for head in heads]

    return model, run


def _smp(entry: str) -> tuple[nn.Module, Callable[[Tensor], Heads]]:
    import segmentation_models_pytorch  # pyright: ignore[reportMissingImports]

    name, _, change = entry.partition(" with ")
    builder = getattr(segmentation_models_pytorch, name)
    model = builder("resnet50", encoder_weights=None, encoder_depth=5, classes=CLASSES, upsampling=1)
    if change == "3x3 fusion":
        fusion = model.decoder.conv[0]
        model.decoder.conv[0] = nn.Conv2d(fusion.in_channels, fusion.out_channels, 3, padding=1, bias=fusion.bias is not None)
    return model, lambda x: [(1.0, model(x))]


def _torchvision(entry: str) -> tuple[nn.Module, Callable[[Tensor], Heads]]:
    from torchvision.models import segmentation

    model = getattr(segmentation, entry)(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)

    def run(x: Tensor) -> Heads:
        out = model(x)
        return [(1.0, out["out"]), (0.5, out["aux"])]

    return model, run


def _plain(entry: str) -> tuple[nn.Module, Callable[[Tensor], Heads]]:
    from benchmarks.harness import vgg_baselines

    model = getattr(vgg_baselines, entry)(CLASSES)
    return model, lambda x: [(1.0, model(x))]
