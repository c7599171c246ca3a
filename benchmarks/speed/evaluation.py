"""Time to evaluate CamVid compared with that of the bare network.

``tools/eval.py`` reads 101 images and labels, runs the network, upsamples its logits, and counts labels and predictions. The bare network
gets the same images, decoded and normalized beforehand, and its logits are thrown away. Both run the same weights in the same precision, one
image at a time, and alternate. A ratio of 1 would mean that everything around the network is free.

About 3 minutes on two cores. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.harness.interleaved_timing import compare_to_peer, time_interleaved
from benchmarks.harness.result_files import write_result
from segzoo.config.build import build_data
from segzoo.config.from_checkpoint import dataset_config, load_checkpoint
from segzoo.device import Precision, pick_device
from segzoo.evaluation.evaluator import evaluate
from segzoo.inference.passes.forward_pass import forward
from segzoo.layers.modes import channels_last, eval_mode
from segzoo.layers.normalize import normalize

WORKERS, ROUNDS = (0, 2), 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint."""
    parser.add_argument("--ckpt", required=True, help="a run of icnet_half on CamVid, such as runs/quick")


def main(args: argparse.Namespace) -> None:
    """Time the network, and evaluations with and without loading processes."""
    model, info, meta = load_checkpoint(ckpt=args.ckpt)
    data, device = build_data(dataset_config(meta, None), "val"), pick_device("cpu")
    precision = Precision("auto", device)
    inputs = [normalize(torch.from_numpy(data[index].image[None]), info, device) for index in range(len(data))]

    @torch.no_grad()
    def network() -> None:
        with eval_mode(model), channels_last(model):
            for x in inputs:
                forward(model, x, precision)

    def evaluation(workers: int) -> None:
        evaluate(model, data, info, device="cpu", precision=precision.name, workers=workers)

    calls: dict[Any, Any] = {workers: lambda workers=workers: evaluation(workers) for workers in WORKERS} | {"network": network}
    taken = time_interleaved(calls, seconds=0, min_rounds=ROUNDS, max_rounds=ROUNDS)
    rows = [
        {"images": len(data), "precision": precision.name, "workers": workers, **compare_to_peer(taken[workers], taken["network"])}
        for workers in WORKERS
    ]
    print(*rows, sep="\n")
    print(write_result("evaluation_360x480", args.command, rows))
