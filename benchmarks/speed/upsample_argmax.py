"""From scores to labels: ``python -m benchmarks.labels <run of camvid_quick>``, a minute.

``grow_labels`` beside growing all scores and taking the arg-max (``F.interpolate(...).argmax(1)``), from 256x512 to 1024x2048, taken in
turns: scores of ICNet with random weights and 19 classes, whose borders are many, and of the trained run with its own.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.interleaved_timing import compared, in_turns
from benchmarks.harness.result_files import write_result
from segzoo.config import build_data
from segzoo.layers.labels import grow_labels
from segzoo.layers.resize import resize
from segzoo.measured import lean_copy
from segzoo.subject import bench_pictures, subject
from segzoo.zoo import data_section, load_with_config

SIZE = (1024, 2048)
HALF = {"model": {"name": "icnet"}, "backbone": {"name": "resnet50", "stem": "deep", "stride_at": "1x1", "width": 0.5}}


def borders(logits: Tensor) -> float:
    """The share of pixels that have another class to the right of them or below."""
    best = logits.argmax(1)
    other = torch.zeros_like(best, dtype=torch.bool)
    other[:, :, :-1] |= best[:, :, :-1] != best[:, :, 1:]
    other[:, :-1] |= best[:, :-1] != best[:, 1:]
    return float(other.float().mean())


@torch.no_grad()
def scores(model: Any, card: Any, data: Any) -> Tensor:
    """What a network says of the first picture, at a quarter of the size."""
    picture = torch.from_numpy(bench_pictures(data, 1, hw=SIZE)[0][None])
    return lean_copy(model, card, torch.device("cpu"))(picture)[0].contiguous()


def row(weights: str, logits: Tensor) -> dict[str, Any]:
    calls = {"ours": lambda: grow_labels(logits, SIZE, True), "peer": lambda: resize(logits, SIZE, True).argmax(1)}
    equal = float((calls["ours"]() == calls["peer"]()).float().mean())
    told = {"weights": weights, "classes": logits.shape[1], "from": list(logits.shape[2:]), "hw": list(SIZE)}
    return told | {"borders": borders(logits), "equal": equal} | compared(in_turns(calls, seconds=20))


def main(run: str) -> None:
    fresh = subject(HALF, classes=19)
    model, card, meta = load_with_config(ckpt=run)
    val = build_data(data_section(meta, None), "val")
    rows = [row("random", scores(fresh.model, fresh.card, fresh.data)), row("trained", scores(model, card, val))]
    rows[1]["checkpoint_sha256"] = meta["sha256"]
    print(*rows, sep="\n")
    print(write_result("labels_1024x2048", "python -m benchmarks.labels runs/quick", rows))


if __name__ == "__main__":
    main(sys.argv[1])
