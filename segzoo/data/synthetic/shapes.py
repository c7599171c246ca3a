"""Shapes of the data set ``parts``: five precision parts and two defects.

Each shape has a signed distance and a relief. Arrays are float32 and use only +, -, *, / and square roots, which IEEE 754 rounds the
same on every processor. The results of NumPy's sine, power and exponential and of OpenCV's float filters depend on the vector unit, so
the images would not be reproducible bit for bit. Lengths are in pixels. ``u`` and ``v`` are the part's own coordinates (h, w), with
``u`` along the axis of a lying part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator


class Solid(NamedTuple):
    """A part seen from above.

    Attributes:
        distance: (h, w) signed distance to the outline, negative on the part.
        relief: (h, w) height of the surface, whose slope determines the shading.
        turned: True for a face turned on a lathe (rings around the center), False for a surface drawn along ``u``.
    """

    distance: np.ndarray
    relief: np.ndarray
    turned: bool


def nut(rng: Generator, u: np.ndarray, v: np.ndarray, size: float) -> Solid:
    """Hexagon nut with corners chamfered to a cone.

    One in sixteen has a round flange.
    """
    flanged = rng.random() < 0.0625
    flat = size * (0.36 if flanged else 0.433)
    bore = flat * rng.uniform(0.46, 0.62)
    rho = np.sqrt(u * u + v * v)
    hexagon = np.maximum(np.abs(v), 0.5 * np.abs(v) + 0.8660254 * np.abs(u)) - flat
    relief = 0.1 * size * _ramp(-hexagon, 0.05 * size) - 0.6 * np.maximum(np.minimum(rho, 1.155 * flat) - 0.98 * flat, 0.0)
    outer = hexagon
    if flanged:
        outer = np.minimum(hexagon, rho - 0.5 * size)
        relief = np.maximum(relief, 0.35 * (0.5 * size - rho))
    relief = relief - _countersink(rho, bore, 0.09 * size)
    return Solid(np.maximum(outer, bore - rho), relief, bool(rng.random() < 0.5))


def washer(rng: Generator, u: np.ndarray, v: np.ndarray, size: float) -> Solid:
    """Flat ring, sometimes dished.

    One in four is a split lock washer.
    """
    outer = 0.5 * size
    bore = outer * rng.uniform(0.42, 0.62)
    rho = np.sqrt(u * u + v * v)
    distance = np.maximum(rho - outer, bore - rho)
    relief = 0.04 * size * _ramp(-distance, 0.05 * size) - rng.uniform(-0.1, 0.3) * rho
    if rng.random() < 0.25:
        gap = np.where(u > 0, 0.045 * size - np.abs(v + 0.3 * (u - outer)), np.float32(-size))
        distance = np.maximum(distance, gap)
        relief = relief - 0.01 * size * _ramp(0.08 * size + gap, 0.08 * size)
    return Solid(distance, relief, True)


def bushing(rng: Generator, u: np.ndarray, v: np.ndarray, size: float) -> Solid:
    """Upright sleeve, chamfered inside and outside.

    One in two has a flange around its base.
    """
    flange = 0.5 * size
    outer = flange * (rng.uniform(0.7, 0.8) if rng.random() < 0.5 else 1.0)
    bore = outer * rng.uniform(0.5, 0.66)
    edge = size * rng.uniform(0.06, 0.1)
    rho = np.sqrt(u * u + v * v)
    relief = 0.13 * size * _ramp(outer - rho + 1.0, 0.05 * size) + 0.04 * size * _ramp(flange - rho, 0.05 * size)
    relief = relief - 0.9 * np.maximum(np.minimum(rho, outer) - (outer - edge), 0.0) - _countersink(rho, bore, edge)
    return Solid(np.maximum(rho - flange, bore - rho), relief, True)


def pin(rng: Generator, u: np.ndarray, v: np.ndarray, size: float) -> Solid:
    """Lying dowel pin with chamfered ends.

    Some have a groove, others a flat head like a clevis pin.
    """
    half, radius = 0.5 * size, size * rng.uniform(0.12, 0.16)
    variant = rng.random()
    chamfer = radius * rng.uniform(0.25, 0.7)
    profile = radius - 0.8 * np.maximum(np.abs(u) - (half - chamfer), 0.0)
    if variant < 0.3:
        profile = profile - 0.22 * radius * _ramp(0.25 * radius - np.abs(u - rng.uniform(0.2, 0.3) * size), 0.15 * radius)
    elif variant < 0.55:
        profile = profile + 0.55 * radius * _ramp(0.1 * size - half - u, 0.15 * radius)
    return _lathed(u, v, profile, half)


def screw(rng: Generator, u: np.ndarray, v: np.ndarray, size: float) -> Solid:
    """Lying screw with a hexagon, pan, countersunk or no head.

    The plain part of the shank varies in length. A thread and a pointed tip follow.
    """
    half, radius = 0.5 * size, size * rng.uniform(0.1, 0.125)
    pitch = radius * rng.uniform(0.5, 0.68)
    head = ("hexagon", "pan", "pan", "countersunk", "none")[int(rng.integers(5))]
    neck = -half + (0.0 if head == "none" else size * rng.uniform(0.13, 0.2))
    thread = neck + (0.0 if head == "none" else (half - neck) * max(0.0, rng.uniform(-0.4, 0.35)))
    wave = np.abs(_fraction((u + 0.3 * v) / pitch) - 0.5) - 0.25
    on_thread = _ramp(u - thread, 2.0)
    profile = radius * (1.0 - 0.05 * on_thread) - 0.75 * np.maximum(u - (half - 0.8 * radius), 0.0)
    profile = profile + 0.34 * pitch * wave * on_thread
    along = np.clip((neck - u) / (neck + half + 1e-3), 0.0, 1.0)  # 0 at the neck, 1 at the crown
    if head == "countersunk":
        profile = np.maximum(profile, (radius + 0.85 * radius * along) * (u < neck))
    elif head == "pan":
        profile = np.maximum(profile, 1.85 * radius * np.sqrt(1.0 - 0.75 * along * along) * (u < neck))
    elif head == "hexagon":
        profile = np.maximum(profile, 1.85 * radius * (u < neck))
    solid = _lathed(u, v, profile, half)
    if head != "hexagon":
        return solid._replace(relief=solid.relief + 2.0 * pitch * wave * on_thread)
    facet = 1.2 * radius - 0.9 * np.maximum(np.abs(v) - 0.8 * radius, 0.0) - 0.8 * np.maximum(along - 0.75, 0.0) * radius
    return solid._replace(relief=np.where(u < neck, facet, solid.relief + 2.0 * pitch * wave * on_thread))


def scratch(rng: Generator, u: np.ndarray, v: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Curved scratch, 8 to 10 pixels wide at scale 1.

    Returns:
        Its mask, and its depth profile from 0 at the edge to 1 at the bottom.
    """
    half, width = scale * rng.uniform(20, 38), scale * rng.uniform(3.8, 5.2)
    bend = rng.uniform(-0.35, 0.35) / half
    across = (v - bend * u * u) / (width * np.maximum(1.0 - 0.5 * u * u / (half * half), 0.5))
    inside = (np.abs(across) < 1.0) & (np.abs(u) < half)
    return inside, np.where(inside, 1.0 - across * across, np.float32(0))


def dent(rng: Generator, u: np.ndarray, v: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Round to oval dent, 20 to 34 pixels wide at scale 1.

    Returns:
        Its mask, and its depth profile from 0 at the rim to 1 at the bottom.
    """
    radius = scale * rng.uniform(13.0, 17.0)
    stretch = rng.uniform(0.75, 1.0)
    square = (u * u + v * v / (stretch * stretch)) / (radius * radius)
    return square < 1.0, np.maximum(1.0 - square * square, 0.0)


def _lathed(u: np.ndarray, v: np.ndarray, profile: np.ndarray, half: float) -> Solid:
    """Solid of revolution lying on the belt.

    ``profile`` is its radius along ``u``.
    """
    distance = np.maximum(np.abs(v) - profile, np.abs(u) - half)
    square = profile * profile
    relief = np.sqrt(np.maximum(square - v * v, 0.03 * square))
    return Solid(distance, relief, False)


def _countersink(rho: np.ndarray, bore: float, width: float) -> np.ndarray:
    return 0.9 * np.maximum(bore + width - rho, 0.0)


def _ramp(x: np.ndarray, width: float) -> np.ndarray:
    """Linear ramp from 0 at zero to 1 at ``width``."""
    return np.clip(x / width, 0.0, 1.0)


def _fraction(x: np.ndarray) -> np.ndarray:
    return x - np.floor(x)


ShapeFunction = Callable[[Generator, np.ndarray, np.ndarray, float], Solid]


class Kind(NamedTuple):
    """A kind of part.

    Attributes:
        draw: makes a solid of a given size.
        min_size, max_size: range of its size at scale 1, in pixels.
        relative_height: height above the belt, as a fraction of the size.
        dark, bright: range of the brightness of its metal. The ranges overlap, so brightness alone does not identify the kind.
    """

    draw: ShapeFunction
    min_size: float
    max_size: float
    relative_height: float
    dark: float
    bright: float


KINDS = (  # in the order of the train ids, from 1
    Kind(nut, 62, 90, 0.13, 0.42, 0.47),
    Kind(washer, 62, 92, 0.045, 0.58, 0.66),
    Kind(screw, 96, 140, 0.1, 0.44, 0.49),
    Kind(pin, 84, 124, 0.11, 0.62, 0.7),
    Kind(bushing, 62, 92, 0.22, 0.24, 0.28),
)
