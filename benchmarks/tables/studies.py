"""Tables of the finished studies."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.formatting import current_term, result_table, with_front
from segzoo.reporting.numbers import format_percent


def icnet_branches() -> str:
    """mIoU and milliseconds by the branches of ICNet."""
    return result_table(
        "icnet_branches",
        ("branches", "mIoU %", "ms fp32", "ms bf16", "front"),
        lambda r: (r["branches"], format_percent(r["miou"]), f"{r['ms_fp32']:.0f}", f"{r['ms_bf16']:.0f}", r["front"]),
        lambda rows: with_front(rows, "ms_fp32"),
    )


def few_shot_transfer() -> str:
    """mIoU on forty images with and without pretraining."""
    return _transfer("transfer")


def few_shot_transfer_other_drive() -> str:
    """The same study, scored on another drive."""
    return _transfer("transfer_other_drive")


def narrowing() -> str:
    """mIoU of a half-width network by its starting weights, and the difference."""
    return _by_seed("narrowing", "starting weights", "miou")


def rare_classes() -> str:
    """IoU of a small defect by sampler, and the difference."""
    return _by_seed("rare_classes", "sampler", "iou")


def _transfer(result: str) -> str:
    return result_table(
        result,
        ("variant", "seeds", "mean mIoU %", "standard deviation"),
        lambda r: (
            current_term(r["variant"]),
            r["seeds"],
            format_percent(sum(r["miou"]) / len(r["miou"])),
            format_percent(r["spread"]) if r.get("spread") is not None else None,
        ),
    )


def _by_seed(result: str, variants: str, score: str) -> str:
    """Return scores of each seed by variant, and their paired difference.

    Args:
        result: name of the result file.
        variants: title of the first column.
        score: ``miou`` or ``iou``, the key of the scores.
    """
    name = score.replace("iou", "IoU")

    def cells(r: dict[str, Any]) -> tuple[Any, ...]:
        return (
            r["variant"],
            " / ".join(map(format_percent, r[score])) if score in r else None,
            format_percent(r["mean"]),
            format_percent(r["spread"]) if "spread" in r else None,
            f"{format_percent(r['low'])} to {format_percent(r['high'])}" if "low" in r else None,
        )

    return result_table(
        result, (variants, f"{name} % of each seed", f"mean {name} %", "standard deviation", "95 % interval"), cells
    )
