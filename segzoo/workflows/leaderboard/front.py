"""Pareto front of a score against a cost."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]  # cost, lower is better, and score, higher is better


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Find the points that no other point dominates.

    A point dominates another one if it is at least as good in both values and better in one. Equal points do not dominate each other.

    Returns:
        Positions on the front by increasing cost, equal points in the given order.
    """
    front: list[int] = []
    best = float("-inf")
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        cost, score = points[index]
        if score > best or (front and points[front[-1]] == (cost, score)):
            front.append(index)
            best = score
    return front


def best_within(points: Sequence[Point], budget: float) -> int | None:
    """Find the point of the highest score up to a cost.

    Args:
        points: cost and score of each.
        budget: the highest cost that is allowed.

    Returns:
        Its position, of equal scores the one of the lowest cost, and None if no point is cheap enough.
    """
    affordable = [index for index, (cost, _) in enumerate(points) if cost <= budget]
    return max(affordable, key=lambda index: (points[index][1], -points[index][0], -index), default=None)
