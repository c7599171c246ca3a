"""Shading of the data set ``parts``: metal, shadows, belt and camera.

Brightness depends only on the slope of a surface, so bevels, threads, dents and scratches are all lit by the same lamp.
Only float32 and basic IEEE 754 operations are used, for the reason given in ``shapes``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator


class Lamp(NamedTuple):
    """Strip lamp.

    Attributes:
        x, y: unit vector of its azimuth in the image.
        tilt: slope at which metal reflects it.
        width: its width, in units of slope.
        shadow_length: length of a shadow per height of the part.
    """

    x: float
    y: float
    tilt: float
    width: float
    shadow_length: float


def metal(rng: Generator, relief: np.ndarray, lamp: Lamp, zoom: float) -> np.ndarray:
    """Brightness of bare metal.

    Metal reflects a key lamp, a weaker fill lamp opposite to it, and dark surroundings.
    """
    slope_y, slope_x = np.zeros_like(relief), np.zeros_like(relief)
    slope_y[1:-1] = 0.5 * (relief[2:] - relief[:-2])
    slope_x[:, 1:-1] = 0.5 * (relief[:, 2:] - relief[:, :-2])
    cos_slope = 1.0 / np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    toward = -(slope_x * lamp.x + slope_y * lamp.y) * cos_slope
    key = (toward - lamp.tilt) / lamp.width
    fill = (toward + 0.62) / (0.7 * lamp.width)
    tarnish = 1.0 + 0.22 * _cloud(rng, relief.shape[0], relief.shape[1], 13 * zoom, 17 * zoom)
    return tarnish * (0.16 + 0.4 * cos_slope + 0.55 / (1.0 + key * key) + 0.3 / (1.0 + fill * fill) + 0.12 * toward)


def finish(rng: Generator, turned: bool, u: np.ndarray, v: np.ndarray, light: tuple[float, float]) -> np.ndarray:
    """Tool marks as a brightness factor around 1.

    A turned face has rings and a bow-tie highlight. Other surfaces have lines along the part.
    """
    marks = np.frombuffer(rng.bytes(1024), np.uint8).astype(np.float32) * np.float32(0.16 / 255) - np.float32(0.08)
    if not turned:
        return 1.0 + marks[(1.4 * v + 512).astype(np.int32) % 1024]
    square = u * u + v * v + 1e-3
    highlight = u * light[0] + v * light[1]
    highlight = highlight * highlight / square
    return 0.9 + marks[(1.4 * np.sqrt(square)).astype(np.int32) % 1024] + 0.25 * highlight * highlight


def shadow(distance: np.ndarray, height: float, lamp: Lamp) -> np.ndarray:
    """Fraction of the light that reaches the surface around a part.

    The part casts a soft shadow away from the lamp and a dark contact shadow around its base.
    """
    length = height * lamp.shadow_length
    swept = distance
    for fraction in (0.5, 1.0):
        swept = np.minimum(
            swept, np.roll(distance, (round(-lamp.y * length * fraction), round(-lamp.x * length * fraction)), (0, 1))
        )
    cast = np.clip(0.5 - swept / (3.0 + 0.7 * length), 0.0, 1.0)
    contact = np.clip(1.0 - distance / (2.0 + 0.6 * height), 0.0, 1.0)
    return (1.0 - 0.45 * cast * cast * (3.0 - 2.0 * cast)) * (1.0 - 0.4 * contact * contact)


def belt(rng: Generator, height: int, width: int, scale: float) -> np.ndarray:
    """Rubber or woven belt that runs along x.

    Its texture has grain, weave, wear in the running direction, stains and dust.
    """
    tone = rng.uniform(0.07, 0.13)
    grain = _grain(rng, height, width)
    wear = _cloud(rng, height, width, 3 * scale, 70 * scale)
    stain = _cloud(rng, height, width, 26 * scale, 34 * scale)
    texture = 0.05 * grain + 0.28 * wear - 0.7 * np.maximum(stain - 0.15, 0.0)
    if rng.random() < 0.65:
        x = np.arange(width, dtype=np.float32)[None, :] / np.float32(scale * rng.uniform(4.5, 6.5))
        y = np.arange(height, dtype=np.float32)[:, None] / np.float32(scale * rng.uniform(4.5, 6.5))
        weave = _zigzag(x + y) + _zigzag(x - y) - 1.0
        texture = texture + rng.uniform(0.06, 0.16) * weave
    texture[grain > 3.2] += 0.8
    return np.maximum(tone * (1.0 + texture), 0.02)


def camera(rng: Generator, scene: np.ndarray) -> np.ndarray:
    """Simulate the camera: (H, W) float -> (H, W) uint8.

    It adds uneven light, vignetting, a slight blur, a highlight shoulder and sensor noise.
    """
    height, width = scene.shape
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    spot_x, spot_y = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8)
    spot = 1.0 / (1.0 + 1.6 * ((x - spot_x) ** 2 + (y - spot_y) ** 2))
    light = rng.uniform(1.05, 1.2) * (0.85 + 0.3 * spot - 0.1 * (x * x + y * y))
    lit = scene * light
    blur = rng.uniform(0.35, 1.0)
    soft = np.pad(lit, 1, "edge")
    soft = 0.25 * (soft[:-2] + soft[2:]) + 0.5 * soft[1:-1]
    soft = 0.25 * (soft[:, :-2] + soft[:, 2:]) + 0.5 * soft[:, 1:-1]
    lit = lit + blur * (soft - lit)
    lit = 1.35 * lit / (1.0 + 0.35 * lit)
    noise = rng.uniform(0.006, 0.016)
    lit = lit + _grain(rng, height, width) * noise * np.sqrt(0.3 + 1.5 * lit)
    return np.clip(lit * 255 + 0.5, 0, 255).astype(np.uint8)


def _zigzag(x: np.ndarray) -> np.ndarray:
    """Triangle wave between 0 and 1 of period 2."""
    return np.abs(x - 2.0 * np.floor(0.5 * x) - 1.0)


def _grain(rng: Generator, height: int, width: int) -> np.ndarray:
    """Approximately Gaussian white noise of unit variance.

    It is the sum of four random bytes, so it is exact on every machine.
    """
    total = np.frombuffer(rng.bytes(4 * height * width), np.uint8).reshape(4, height, width).sum(0, dtype=np.uint16)
    return (total.astype(np.float32) - 510.0) / 147.8


def _cloud(rng: Generator, height: int, width: int, cell_y: float, cell_x: float) -> np.ndarray:
    """Smooth noise in -0.5..0.5 with grid cells of the given size."""
    rows, columns = int(height / cell_y) + 2, int(width / cell_x) + 2
    grid = np.frombuffer(rng.bytes(rows * columns), np.uint8).reshape(rows, columns).astype(np.float32) / 255 - 0.5
    stretched = _lookup(grid, np.arange(height, dtype=np.float32) / np.float32(cell_y))
    return _lookup(stretched.T, np.arange(width, dtype=np.float32) / np.float32(cell_x)).T


def _lookup(table: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Interpolate ``table`` smoothly at fractional positions.

    Positions are not checked; callers keep them inside the table.
    """
    index = position.astype(np.int32)
    step = position - index.astype(np.float32)
    step = (step * step * (3.0 - 2.0 * step)).reshape(step.shape + (1,) * (table.ndim - 1))
    return table[index] + step * (table[index + 1] - table[index])
