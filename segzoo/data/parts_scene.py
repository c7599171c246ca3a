"""The scenes of the data set `parts`: belt, lamp, shadows, worn metal and the camera above it.

Brightness follows a surface's slope alone, so that bevels, threads, dents and scratches all answer the same lamp.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from segzoo.data.parts_shapes import KINDS, Solid, dent, scratch

BELT, SCRATCH, DENT = 0, len(KINDS) + 1, len(KINDS) + 2


class Scene(NamedTuple):
    """One picture: grey (H, W) uint8, label (H, W) uint8 of train ids, kind (H, W) uint8: the same without the defects.

    While it is being drawn, grey is the float32 brightness that reaches the lens, 1 being white.
    """

    grey: np.ndarray
    label: np.ndarray
    kind: np.ndarray


class Lamp(NamedTuple):
    """A strip lamp: unit azimuth (x, y) in the picture, slope at which metal mirrors it, its width, shadow length per height."""

    x: float
    y: float
    tilt: float
    width: float
    reach: float


def draw(rng: Generator, height: int, width: int, objects: tuple[int, int]) -> Scene:
    """Draws one scene: belt, then part over part with shadows and defects, then the camera's light, blur and noise."""
    scale = min(height, width) / 192
    turn = rng.uniform(0, 2 * math.pi)
    lamp = Lamp(math.cos(turn), math.sin(turn), rng.uniform(0.25, 0.5), rng.uniform(0.16, 0.3), rng.uniform(0.5, 1.2))
    canvas = _belt(rng, height, width, scale)
    label = np.zeros((height, width), np.uint8)
    kind = np.zeros((height, width), np.uint8)
    zoom = scale * rng.uniform(0.9, 1.15)
    for number, size, x, y in _arrange(rng, height, width, zoom, int(rng.integers(objects[0], objects[1] + 1))):
        _place(rng, Scene(canvas, label, kind), number, size, (x, y), zoom, lamp)
    return Scene(_camera(rng, canvas), label, kind)


def _arrange(rng: Generator, height: int, width: int, zoom: float, count: int) -> list[tuple[int, float, float, float]]:
    """Kind, size and centre of each part: mostly the freest of eight spots, sometimes a blind throw that makes a pile."""
    placed: list[tuple[int, float, float, float]] = []
    for _ in range(count):
        number = int(rng.integers(len(KINDS)))
        size = zoom * rng.uniform(KINDS[number].least, KINDS[number].greatest)
        spots = [(width * rng.uniform(0.04, 0.96), height * rng.uniform(0.04, 0.96)) for _ in range(8)]
        room = [min([math.hypot(x - p[2], y - p[3]) - 0.45 * p[1] for p in placed], default=0.0) for x, y in spots]
        x, y = spots[0] if rng.random() < 0.12 else spots[room.index(max(room))]
        placed.append((number, size, x, y))
    return placed


def _place(rng: Generator, scene: Scene, number: int, size: float, centre: tuple[float, float], zoom: float, lamp: Lamp) -> None:
    """Paints one part with its defects over the scene, its shadow first; works in place."""
    turn = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(turn), math.sin(turn)
    kind = KINDS[number]
    tall = kind.tall * size
    margin = int(max(1.35 * tall * lamp.reach, 0.6 * tall) + 4)  # of the shadow around the part, pixels
    reach = int(0.5 * size + 2) + margin
    left, top = int(centre[0]) - reach, int(centre[1]) - reach
    dx = (np.arange(2 * reach + 1, dtype=np.float32) + np.float32(left - centre[0]))[None, :]
    dy = (np.arange(2 * reach + 1, dtype=np.float32) + np.float32(top - centre[1]))[:, None]
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    solid = kind.draw(rng, u, v, size)
    window, cut = _overlap(scene.label.shape, left, top, 2 * reach + 1)
    scene.grey[window] *= _shadow(solid.distance, tall, lamp)[cut]

    inner = (slice(margin, -margin), slice(margin, -margin))
    u, v, solid = u[inner], v[inner], Solid(solid.distance[inner], solid.relief[inner], solid.turned)
    label = np.full(u.shape, number + 1, np.uint8)
    relief, glint = _damage(rng, solid, label, u, v, zoom)
    finish = _finish(rng, solid.turned, u, v, (lamp.x * cos + lamp.y * sin, lamp.y * cos - lamp.x * sin))
    metal = rng.uniform(kind.dark, kind.bright) * _metal(rng, relief, lamp, zoom) * finish
    metal = metal * (1.0 + np.minimum(glint, 0.0)) + np.maximum(glint, 0.0)
    window, cut = _overlap(scene.label.shape, left + margin, top + margin, u.shape[0])
    cover = np.clip(0.5 - solid.distance[cut], 0.0, 1.0)
    scene.grey[window] += cover * (metal[cut] - scene.grey[window])
    mask = solid.distance[cut] < 0
    scene.label[window][mask] = label[cut][mask]
    scene.kind[window][mask] = number + 1


def _overlap(shape: tuple[int, ...], left: int, top: int, side: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a square patch, its centre in the picture, meets the picture: as slices of the picture and as slices of the patch."""
    rows = slice(max(0, top), max(0, min(shape[0], top + side)))
    columns = slice(max(0, left), max(0, min(shape[1], left + side)))
    return (rows, columns), (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))


def _damage(
    rng: Generator, solid: Solid, label: np.ndarray, u: np.ndarray, v: np.ndarray, zoom: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts up to two defects into a part: writes their ids to ``label``; the new relief and the glint.

    A positive glint is light that bare metal in a scratch adds, a negative one the share that a dent swallows.
    """
    relief, glint = solid.relief, np.zeros_like(solid.relief)
    surface = np.flatnonzero(solid.distance < -4 * zoom)
    count = (0, 0, 1, 2, 2)[int(rng.integers(5))] if surface.size else 0
    for _ in range(count):
        spot = int(surface[int(rng.integers(surface.size))])
        is_scratch = rng.random() < 0.45
        turn = rng.uniform(0, math.pi) if solid.turned or not is_scratch else rng.uniform(-0.5, 0.5)
        du, dv = u - u[np.unravel_index(spot, u.shape)], v - v[np.unravel_index(spot, u.shape)]
        a, b = du * math.cos(turn) + dv * math.sin(turn), dv * math.cos(turn) - du * math.sin(turn)
        inside, depth = (scratch if is_scratch else dent)(rng, a, b, zoom)
        relief = relief - (3.0 if is_scratch else 3.4) * zoom * depth
        glint[inside] = depth[inside] * (rng.uniform(0.35, 0.6) if is_scratch else rng.uniform(-0.75, -0.45))
        label[inside] = SCRATCH if is_scratch else DENT
    return relief, glint


def _metal(rng: Generator, relief: np.ndarray, lamp: Lamp, zoom: float) -> np.ndarray:
    """Brightness of bare metal: it mirrors a key lamp, a weaker one opposite, and a dark room."""
    slope_y, slope_x = np.zeros_like(relief), np.zeros_like(relief)
    slope_y[1:-1] = 0.5 * (relief[2:] - relief[:-2])
    slope_x[:, 1:-1] = 0.5 * (relief[:, 2:] - relief[:, :-2])
    steep = 1.0 / np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    toward = -(slope_x * lamp.x + slope_y * lamp.y) * steep
    key = (toward - lamp.tilt) / lamp.width
    fill = (toward + 0.62) / (0.7 * lamp.width)
    tarnish = 1.0 + 0.35 * _cloud(rng, *relief.shape, 13 * zoom, 17 * zoom)
    return tarnish * (0.16 + 0.4 * steep + 0.75 / (1.0 + key * key) + 0.3 / (1.0 + fill * fill) + 0.12 * toward)


def _finish(rng: Generator, turned: bool, u: np.ndarray, v: np.ndarray, light: tuple[float, float]) -> np.ndarray:
    """Tool marks: rings and the bow-tie gleam of a turned face, or lines drawn along the part; a factor about 1."""
    marks = np.frombuffer(rng.bytes(1024), np.uint8).astype(np.float32) * np.float32(0.16 / 255) - np.float32(0.08)
    if not turned:
        return 1.0 + marks[(1.4 * v + 512).astype(np.int32) % 1024]
    square = u * u + v * v + 1e-3
    gleam = u * light[0] + v * light[1]
    gleam = gleam * gleam / square
    return 0.82 + marks[(1.4 * np.sqrt(square)).astype(np.int32) % 1024] + 0.45 * gleam * gleam


def _shadow(distance: np.ndarray, tall: float, lamp: Lamp) -> np.ndarray:
    """What a part leaves of the light on things below it: a soft cast shadow away from the lamp, and a dark seam around its foot."""
    far = tall * lamp.reach
    swept = distance
    for share in (0.5, 1.0):
        swept = np.minimum(swept, np.roll(distance, (round(-lamp.y * far * share), round(-lamp.x * far * share)), (0, 1)))
    cast = np.clip(0.5 - swept / (3.0 + 0.7 * far), 0.0, 1.0)
    seam = np.clip(1.0 - distance / (2.0 + 0.6 * tall), 0.0, 1.0)
    return (1.0 - 0.55 * cast * cast * (3.0 - 2.0 * cast)) * (1.0 - 0.4 * seam * seam)


def _belt(rng: Generator, height: int, width: int, scale: float) -> np.ndarray:
    """Rubber or woven belt running along x: grain, weave, wear in the running direction, stains, dust."""
    tone = rng.uniform(0.11, 0.36)
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


def _camera(rng: Generator, scene: np.ndarray) -> np.ndarray:
    """Uneven light, vignetting, slight blur, highlight shoulder and sensor noise; (H, W) float -> (H, W) uint8."""
    height, width = scene.shape
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    spot_x, spot_y = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8)
    spot = 1.0 / (1.0 + 1.6 * ((x - spot_x) ** 2 + (y - spot_y) ** 2))
    light = rng.uniform(0.9, 1.25) * (0.75 + 0.5 * spot - 0.1 * (x * x + y * y))
    lit = scene * light
    blur = rng.uniform(0.35, 1.0)
    soft = np.pad(lit, 1, "edge")
    soft = 0.25 * (soft[:-2] + soft[2:]) + 0.5 * soft[1:-1]
    soft = 0.25 * (soft[:, :-2] + soft[:, 2:]) + 0.5 * soft[:, 1:-1]
    lit = lit + blur * (soft - lit)
    lit = 1.2 * lit / (1.0 + 0.35 * lit)
    noise = rng.uniform(0.006, 0.016)
    lit = lit + _grain(rng, height, width) * noise * np.sqrt(0.3 + 1.5 * lit)
    return np.clip(lit * 255 + 0.5, 0, 255).astype(np.uint8)


def _zigzag(x: np.ndarray) -> np.ndarray:
    """Triangle wave between 0 and 1 of period 2."""
    return np.abs(x - 2.0 * np.floor(0.5 * x) - 1.0)


def _grain(rng: Generator, height: int, width: int) -> np.ndarray:
    """Near-normal white noise of unit variance: the sum of four random bytes, exact on every machine."""
    total = np.frombuffer(rng.bytes(4 * height * width), np.uint8).reshape(4, height, width).sum(0, dtype=np.uint16)
    return (total.astype(np.float32) - 510.0) / 147.8


def _cloud(rng: Generator, height: int, width: int, cell_y: float, cell_x: float) -> np.ndarray:
    """Smooth noise in -0.5..0.5 with grid cells of the given size."""
    rows, columns = int(height / cell_y) + 2, int(width / cell_x) + 2
    grid = np.frombuffer(rng.bytes(rows * columns), np.uint8).reshape(rows, columns).astype(np.float32) / 255 - 0.5
    tall = _lookup(grid, np.arange(height, dtype=np.float32) / np.float32(cell_y))
    return _lookup(tall.T, np.arange(width, dtype=np.float32) / np.float32(cell_x)).T


def _lookup(table: np.ndarray, position: np.ndarray) -> np.ndarray:
    """``table`` read between its entries, smoothly; positions stay inside by construction."""
    index = position.astype(np.int32)
    step = position - index.astype(np.float32)
    step = (step * step * (3.0 - 2.0 * step)).reshape(step.shape + (1,) * (table.ndim - 1))
    return table[index] + step * (table[index + 1] - table[index])
