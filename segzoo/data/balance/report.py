"""Class shares of a training set in words."""

from __future__ import annotations

from segzoo.data.balance.class_weights import automatic_class_weights
from segzoo.data.checks.split_report import SplitReport
from segzoo.messages import format_override

RARE = 0.01  # share of the labeled pixels below which weights are proposed
MAX_CLASSES = 24  # of more, the most and the least frequent are listed


def class_shares(report: SplitReport) -> str:
    """List the shares of the classes among the labeled pixels."""
    shares = [f"{name} {fraction:.2%}" for name, fraction in report.class_fractions.items()]
    if len(shares) > MAX_CLASSES:
        ranked = sorted(report.class_fractions.items(), key=lambda item: -item[1])
        shares = [f"{name} {fraction:.2%}" for name, fraction in ranked]
        shares[MAX_CLASSES // 2 : -MAX_CLASSES // 2] = ["..."]
    return ", ".join(shares)


def imbalance_note(report: SplitReport) -> str | None:
    """Propose class weights if a class is rare, else None."""
    rare = [name for name, fraction in report.class_fractions.items() if 0 < fraction < RARE]
    if not rare:
        return None
    weights = format_override("loss.class_weights", list(automatic_class_weights(report.class_counts)))
    images = report.num_images if report.num_read == report.num_images else f"{report.num_read} of {report.num_images}"
    return (
        f"of the labeled pixels of {images} images together, less than 1% are {', '.join(rare)}. If such a "
        f"class is missed, weight it by loss.class_weights=auto, here {weights}, draw it more often by sampler=rare_class, or set "
        "loss=cross_entropy_dice."
    )
