"""Inference and training-step time at 480x360 compared with peer libraries.

PSPNet is compared with mmsegmentation's, FCN with torchvision's. Both sides have weights of the same shapes, the same random image,
channels-last memory, the same optimizer and label size; each upsamples its logits and computes its loss in its own way. The calls are
interleaved in one process; a ratio below 1 means segzoo is faster.

About 20 minutes on two cores. The result file is written only if no option narrows the selection. Needs "segzoo[peers]".
"""

from __future__ import annotations

import argparse
import gc
import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.harness.interleaved_timing import compare_to_peer, time_interleaved
from benchmarks.harness.result_files import write_result
from segzoo import create_model
from segzoo.layers.upsample_argmax import upsample_argmax
from segzoo.registry import LOSSES

HEIGHT, WIDTH, CLASSES = 360, 480, 19
MODELS, MODES, BATCHES, PRECISIONS = ("pspnet", "fcn_dilated"), ("eval", "train"), (1, 8), ("bf16", "fp32")
SECONDS, MIN_ROUNDS, MAX_ROUNDS = 25.0, 4, 10
Step = Callable[[torch.Tensor, torch.Tensor], Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that narrow the selection."""
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("--batch", choices=BATCHES, type=int)
    parser.add_argument("--precision", choices=PRECISIONS)


def build_segzoo(name: str) -> torch.nn.Module:
    """Build segzoo's model with the settings of its peer."""
    if name == "pspnet":
        backbone = {"name": "resnet50", "stem": "v1c"}
        return create_model(name, backbone, CLASSES, first_block_dilation="half", concat="ascending", align_corners=False)
    return create_model(name, "resnet50", CLASSES)


def build_peer(name: str) -> torch.nn.Module:
    """Build mmsegmentation's PSPNet-R50-D8 or torchvision's fcn_resnet50."""
    if name == "pspnet":
        from benchmarks.harness.mmseg_import import mmseg_model

        return mmseg_model("pspnet_r50-d8_4xb2-40k_cityscapes-512x1024")
    from torchvision.models.segmentation import fcn_resnet50

    return fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)


def peer_logits(name: str, model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Return the peer's main logits, followed by the auxiliary ones in training."""
    if name == "pspnet":
        features = model.extract_feat(x)  # type: ignore[operator]
        return [model.decode_head(features)] + ([model.auxiliary_head(features)] if model.training else [])  # type: ignore[operator]
    out = model(x)
    return [out["out"], out["aux"]] if model.training else [out["out"]]


def build_step(name: str, side: str, mode: str, precision: str) -> Step:
    """Return a training step or an inference call of one side.

    Both are functions of image and label.
    """
    torch.manual_seed(0)
    model = (build_segzoo if side == "segzoo" else build_peer)(name).to(memory_format=torch.channels_last)
    model.train(mode == "train")
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    size = (HEIGHT, WIDTH)
    weights = (0.4,) if name == "pspnet" else (0.5,)

    def loss_of(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        with cast:
            if side == "segzoo":
                logits = model(x)
            else:
                heads = [F.interpolate(h, size, mode="bilinear", align_corners=False) for h in peer_logits(name, model, x)]
        if side == "segzoo":
            return loss(logits, label)
        terms = [w * F.cross_entropy(h.float(), label, ignore_index=255) for w, h in zip((1.0, *weights), heads, strict=True)]
        return torch.stack(terms).sum()

    loss = LOSSES.build("cross_entropy", weights, False)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4)

    def train(x: torch.Tensor, label: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(x, label).backward()
        optimizer.step()

    @torch.no_grad()
    def infer(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        with cast:
            if side == "segzoo":
                return upsample_argmax(model(x).main, size, False)
            return F.interpolate(peer_logits(name, model, x)[0], size, mode="bilinear", align_corners=False).argmax(1)

    return train if mode == "train" else infer


def measure(name: str, mode: str, batch: int, precision: str) -> dict[str, Any]:
    """Time both sides interleaved and return the row of the result file."""
    x = torch.randn(batch, 3, HEIGHT, WIDTH).contiguous(memory_format=torch.channels_last)
    label = torch.randint(0, CLASSES, (batch, HEIGHT, WIDTH))
    row = {"model": name, "mode": mode, "batch": batch, "precision": precision, "hw": [HEIGHT, WIDTH]}
    steps = {side: build_step(name, side, mode, precision) for side in ("segzoo", "peer")}
    steps["segzoo"](x, label)
    try:
        steps["peer"](x, label)
    except ValueError as error:  # batch norm of mmsegmentation's PSPNet cannot train on one pooled value per channel
        return row | {"peer_error": str(error)}
    calls = {side: lambda step=step: step(x, label) for side, step in steps.items()}
    taken = time_interleaved(calls, seconds=SECONDS, min_rounds=MIN_ROUNDS, max_rounds=MAX_ROUNDS, warmup=0)
    return row | compare_to_peer(taken["segzoo"], taken["peer"])


def main(args: argparse.Namespace) -> None:
    """Measure all selected combinations."""
    models = MODELS if args.model is None else (args.model,)
    modes = MODES if args.mode is None else (args.mode,)
    batches = BATCHES if args.batch is None else (args.batch,)
    precisions = PRECISIONS if args.precision is None else (args.precision,)
    rows = []
    for name, mode, batch, precision in itertools.product(models, modes, batches, precisions):
        rows.append(measure(name, mode, batch, precision))
        gc.collect()
        print(rows[-1], flush=True)
    if (models, modes, batches, precisions) == (MODELS, MODES, BATCHES, PRECISIONS):
        print(write_result("peers_360x480", args.command, rows, packages=("mmsegmentation",)))
