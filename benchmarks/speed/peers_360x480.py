"""Time per training step and per evaluated picture beside the peers, taken in turns in one process.

    python -m benchmarks.beside_peers                  # everything, about 20 minutes on two cores
    python -m benchmarks.beside_peers pspnet eval 1 bf16

Both sides get the same weights' shapes, the same random picture, channels-last memory, the same optimiser and label size; each
grows and scores its logits its own way. A ratio below 1 means ours is faster.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.harness.interleaved_timing import compared, in_turns
from benchmarks.harness.result_files import write_result
from segzoo import create_model
from segzoo.layers.labels import grow_labels
from segzoo.registry import LOSSES

HEIGHT, WIDTH, CLASSES = 360, 480, 19
SECONDS, FEWEST, MOST = 25.0, 4, 10  # of each side: measured until one of the two is reached
Step = Callable[[torch.Tensor, torch.Tensor], Any]


def ours(name: str) -> torch.nn.Module:
    """Our model in the peer's form."""
    if name == "pspnet":
        trunk = {"name": "resnet50", "stem": "v1c"}
        return create_model(name, trunk, CLASSES, first_block="half", concat="ascending", align_corners=False)
    return create_model(name, "resnet50", CLASSES)


def peer(name: str) -> torch.nn.Module:
    """mmsegmentation's PSPNet-R50-D8, or torchvision's fcn_resnet50."""
    if name == "pspnet":
        from benchmarks.harness.mmseg_import import mmseg_model

        return mmseg_model("pspnet_r50-d8_4xb2-40k_cityscapes-512x1024")
    from torchvision.models.segmentation import fcn_resnet50

    return fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)


def peer_logits(name: str, model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The peer's logits, main first; the auxiliary ones only in training."""
    if name == "pspnet":
        features = model.extract_feat(x)  # type: ignore[operator]
        return [model.decode_head(features)] + ([model.auxiliary_head(features)] if model.training else [])  # type: ignore[operator]
    out = model(x)
    return [out["out"], out["aux"]] if model.training else [out["out"]]


def step_of(name: str, side: str, mode: str, precision: str) -> Step:
    """One training step or one evaluated picture of a side, as a function of image and label."""
    torch.manual_seed(0)
    model = (ours if side == "ours" else peer)(name).to(memory_format=torch.channels_last)
    model.train(mode == "train")
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    size = (HEIGHT, WIDTH)
    weights = (0.4,) if name == "pspnet" else (0.5,)

    def loss_of(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        with cast:
            if side == "ours":
                logits = model(x)
            else:
                heads = [F.interpolate(h, size, mode="bilinear", align_corners=False) for h in peer_logits(name, model, x)]
        if side == "ours":
            return loss(logits, label)
        terms = [w * F.cross_entropy(h.float(), label, ignore_index=255) for w, h in zip((1.0, *weights), heads, strict=True)]
        return torch.stack(terms).sum()

    loss = LOSSES.build("cross_entropy", weights, False)
    optimiser = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4)

    def train(x: torch.Tensor, label: torch.Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss_of(x, label).backward()
        optimiser.step()

    @torch.no_grad()
    def evaluate(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        with cast:
            if side == "ours":
                return grow_labels(model(x).main, size, False)
            return F.interpolate(peer_logits(name, model, x)[0], size, mode="bilinear", align_corners=False).argmax(1)

    return train if mode == "train" else evaluate


def measure(name: str, mode: str, batch: int, precision: str) -> dict[str, Any]:
    """Seconds of both sides taken in turns, and the ratio with its interval."""
    x = torch.randn(batch, 3, HEIGHT, WIDTH).contiguous(memory_format=torch.channels_last)
    label = torch.randint(0, CLASSES, (batch, HEIGHT, WIDTH))
    row = {"model": name, "mode": mode, "batch": batch, "precision": precision, "hw": [HEIGHT, WIDTH]}
    steps = {side: step_of(name, side, mode, precision) for side in ("ours", "peer")}
    steps["ours"](x, label)
    try:
        steps["peer"](x, label)
    except ValueError as error:  # mmsegmentation's PSPNet has no norm for one pooled value
        return row | {"peer_refuses": str(error)}
    calls = {side: lambda step=step: step(x, label) for side, step in steps.items()}
    return row | compared(in_turns(calls, seconds=SECONDS, least=FEWEST, most=MOST, warm=0))


def main(words: list[str]) -> None:
    cases = [
        (name, mode, batch, precision)
        for name in ("pspnet", "fcn_dilated")
        for mode in ("eval", "train")
        for batch in (1, 8)
        for precision in ("bf16", "fp32")
        if set(words) <= {name, mode, str(batch), precision}
    ]
    rows = []
    for case in cases:
        rows.append(measure(*case))
        gc.collect()
        print(rows[-1], flush=True)
    if not words:
        print(write_result("peers_360x480", "python -m benchmarks.beside_peers", rows, packages=("mmsegmentation",)))


if __name__ == "__main__":
    main(sys.argv[1:])
