"""What the fully connected CRF adds to trained networks and what it costs: ``python -m benchmarks.crf_effect <run> ...``.

mIoU on all validation pictures with and without it, at the parameters of ``conf/post/crf.yaml``, and the median time of both parts:
normalised picture to probabilities in the network, probabilities to labels in the CRF.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.result_files import write_result
from segzoo.config import build_data
from segzoo.engine.device import Precision, normalise
from segzoo.engine.evaluate import evaluate
from segzoo.engine.infer import Protocol, class_probabilities, evaluating
from segzoo.registry import POSTS
from segzoo.zoo import data_section, load_with_config, title

TIMED = 12  # pictures


@torch.no_grad()
def times(model: Any, data: Any, card: Any, post: Any) -> dict[str, float]:
    """Median milliseconds a picture, in the network and in the CRF."""
    precision, network, field = Precision("bf16", torch.device("cpu")), [], []
    with evaluating(model):
        for index in range(0, len(data), max(1, len(data) // TIMED)):
            image = torch.from_numpy(data[index].image)[None]
            x = normalise(image, card, precision.device)
            start = time.perf_counter()
            probabilities = class_probabilities(model, x, Protocol(), precision)
            middle = time.perf_counter()
            post(image, probabilities)
            network.append(middle - start)
            field.append(time.perf_counter() - middle)
    return {"network_ms": 1000 * statistics.median(network[1:]), "crf_ms": 1000 * statistics.median(field[1:])}


def measure(ckpt: str) -> dict[str, Any]:
    """One row: the network, its score with and without the CRF, and the times."""
    model, card, meta = load_with_config(ckpt=ckpt)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data, post = build_data(data_section(meta, None), "val"), POSTS.build("crf")
    with_crf, without = (evaluate(model, data, card, device="cpu", precision="bf16", post=step) for step in (post, None))
    row = {"model": title(meta), "checkpoint_sha256": meta["sha256"], "hw": list(data[0].label.shape[:2])}
    row |= {"miou": without.scores.miou, "miou_crf": with_crf.scores.miou, "post": post.describe()}
    return row | times(model, data, card, post)


def main(ckpts: list[str]) -> None:
    rows = []
    for ckpt in ckpts:
        rows.append(measure(ckpt))
        print(rows[-1], flush=True)
    print(write_result("crf_effect", "python -m benchmarks.crf_effect " + " ".join(Path(ckpt).name for ckpt in ckpts), rows))


if __name__ == "__main__":
    main(sys.argv[1:])
