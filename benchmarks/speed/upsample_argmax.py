"""Fused upsampling and argmax compared with torch's two separate operators.

segzoo's function against ``F.interpolate(...).argmax(1)``, from 256x512 to 1024x2048, interleaved: logits of ICNet with random weights and
19 classes, where many pixels lie at class boundaries, and those of a trained network on its own data.

One minute.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.interleaved_timing import compare_to_peer, time_interleaved
from benchmarks.harness.models import NETWORKS
from benchmarks.harness.result_files import write_result
from segzoo.config.build import build_data
from segzoo.config.from_checkpoint import dataset_config, load_checkpoint
from segzoo.layers.resize import resize
from segzoo.layers.upsample_argmax import upsample_argmax
from segzoo.models._base import SegModel
from segzoo.types import DatasetInfo, Images
from segzoo.workflows.benchmark.runner import inference_copy
from segzoo.workflows.benchmark.workload import benchmark_images, build_workload

SIZE = (1024, 2048)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the trained network."""
    parser.add_argument("run", help="run directory of experiment=camvid_quick")


def boundary_fraction(logits: Tensor) -> float:
    """Return the fraction of pixels at a class boundary.

    Their class differs from that of the pixel to the right or below.
    """
    best = logits.argmax(1)
    differs = torch.zeros_like(best, dtype=torch.bool)
    differs[:, :, :-1] |= best[:, :, :-1] != best[:, :, 1:]
    differs[:, :-1] |= best[:, :-1] != best[:, 1:]
    return float(differs.float().mean())


@torch.no_grad()
def first_logits(model: SegModel, info: DatasetInfo, data: Images) -> Tensor:
    """Return a network's logits of the first image.

    They have a quarter of the height and width of the image.
    """
    image = torch.from_numpy(benchmark_images(data, 1, hw=SIZE)[0][None])
    return inference_copy(model, info, torch.device("cpu"))(image)[0].contiguous()


def measure(weights: str, logits: Tensor) -> dict[str, Any]:
    """Time both ways on the same logits and compare their labels."""
    calls = {"segzoo": lambda: upsample_argmax(logits, SIZE, True), "peer": lambda: resize(logits, SIZE, True).argmax(1)}
    equal = float((calls["segzoo"]() == calls["peer"]()).float().mean())
    row = {"weights": weights, "classes": logits.shape[1], "from": list(logits.shape[2:]), "hw": list(SIZE)}
    row |= {"boundary_fraction": boundary_fraction(logits), "equal": equal}
    taken = time_interleaved(calls, seconds=20)
    return row | compare_to_peer(taken["segzoo"], taken["peer"])


def main(args: argparse.Namespace) -> None:
    """Measure with logits of a random and of a trained network."""
    fresh = build_workload(NETWORKS["icnet_half"], num_classes=19)
    model, info, meta = load_checkpoint(ckpt=args.run)
    val = build_data(dataset_config(meta, None), "val")
    rows = [
        measure("random", first_logits(fresh.model, fresh.info, fresh.images)),
        measure("trained", first_logits(model, info, val)),
    ]
    rows[1]["checkpoint_sha256"] = meta["sha256"]
    print(*rows, sep="\n")
    print(write_result("labels_1024x2048", args.command, rows))
