"""mIoU gain and time of the fully connected CRF on trained networks.

mIoU on all validation images with and without the CRF, with the parameters of ``conf/post/crf.yaml``, and the median time of both parts:
from the normalized image to probabilities in the network, from probabilities to labels in the CRF.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.harness.result_files import write_result
from segzoo.config.build import build_data
from segzoo.config.from_checkpoint import checkpoint_title, dataset_config, load_checkpoint
from segzoo.device import Precision
from segzoo.evaluation.evaluator import evaluate
from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol, PostProcessor
from segzoo.inference.segment import predict_probabilities
from segzoo.layers.modes import eval_mode
from segzoo.layers.normalize import normalize
from segzoo.models._base import SegModel
from segzoo.registry import POSTS
from segzoo.types import Dataset, DatasetInfo

TIMED_IMAGES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the trained networks."""
    parser.add_argument("run", nargs="+", help="run directories or checkpoints")


@torch.no_grad()
def time_parts(model: SegModel, data: Dataset, info: DatasetInfo, post: PostProcessor) -> dict[str, float]:
    """Return the median milliseconds per image of network and CRF."""
    precision, network, crf = Precision("bf16", torch.device("cpu")), [], []
    with eval_mode(model):
        for index in range(0, len(data), max(1, len(data) // TIMED_IMAGES)):
            image = torch.from_numpy(data[index].image)[None]
            x = normalize(image, info, precision.device)
            start = time.perf_counter()
            probabilities = predict_probabilities(model, x, SINGLE_PASS, precision)
            middle = time.perf_counter()
            post(image, probabilities)
            network.append(middle - start)
            crf.append(time.perf_counter() - middle)
    return {"network_ms": 1000 * statistics.median(network[1:]), "crf_ms": 1000 * statistics.median(crf[1:])}


def measure(ckpt: str) -> dict[str, Any]:
    """Score one network with and without the CRF, and time both parts."""
    model, info, meta = load_checkpoint(ckpt=ckpt)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data, post = build_data(dataset_config(meta, None), "val"), POSTS.build("crf")
    with_crf, without = (
        evaluate(model, data, info, device="cpu", precision="bf16", protocol=InferenceProtocol(post=step)) for step in (post, None)
    )
    row = {"model": checkpoint_title(meta), "checkpoint_sha256": meta["sha256"], "hw": list(data[0].label.shape[:2])}
    row |= {"miou": without.scores.miou, "miou_crf": with_crf.scores.miou, "post": post.describe()}
    return row | time_parts(model, data, info, post)


def main(args: argparse.Namespace) -> None:
    """Measure each network."""
    rows = []
    for ckpt in args.run:
        rows.append(measure(ckpt))
        print(rows[-1], flush=True)
    print(write_result("crf_effect", args.command, rows))
