"""What each resolution of a trained ICNet is worth: ``python -m benchmarks.icnet_branches <run>``, as in table 3 of the paper.

One network, asked with branches 4, 24 and 124: mIoU on its validation pictures, and the time from the normalised picture to the
label map, one picture of that data at a time, the three in turns.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.interleaved_timing import in_turns
from benchmarks.harness.result_files import write_result
from segzoo.config import build_data
from segzoo.engine.evaluate import evaluate
from segzoo.layers.labels import grow_labels
from segzoo.zoo import data_section, load_with_config

BRANCHES, TURNS = (4, 24, 124), 30
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@torch.no_grad()
def times(model: Any, size: tuple[int, int], precision: str) -> dict[int, float]:
    """Median milliseconds of a picture by branches."""
    x = torch.randn(1, 3, *size).contiguous(memory_format=torch.channels_last)

    def answer(branches: int) -> None:
        model.branches = branches
        grow_labels(model(x).main, size, model.align_corners)

    calls = {str(branches): lambda branches=branches: answer(branches) for branches in BRANCHES}
    with torch.autocast("cpu", PRECISIONS[precision], enabled=precision != "fp32"):
        taken = in_turns(calls, seconds=60, least=TURNS, most=TURNS, warm=3)
    return {int(branches): 1000 * statistics.median(seconds) for branches, seconds in taken.items()}


def main(ckpt: str) -> None:
    model, card, meta = load_with_config(ckpt=ckpt)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = build_data(data_section(meta, None), "val")
    size = data[0].label.shape[:2]
    milliseconds = {precision: times(model, size, precision) for precision in PRECISIONS}
    rows = []
    for branches in BRANCHES:
        model.branches = branches  # type: ignore[assignment]
        scored = evaluate(model, data, card, device="cpu", precision="bf16")
        row = {"branches": branches, "miou": scored.scores.miou, "protocol": scored.protocol, "hw": list(size)}
        rows.append(row | {f"ms_{precision}": found[branches] for precision, found in milliseconds.items()})
        print(rows[-1], flush=True)
    for row in rows:
        row["checkpoint_sha256"], row["data"] = meta["sha256"], card.name
    print(write_result("icnet_branches", f"python -m benchmarks.icnet_branches {Path(ckpt).name}", rows))


if __name__ == "__main__":
    main(sys.argv[1])
