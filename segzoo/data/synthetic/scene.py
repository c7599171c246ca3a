"""The scenes of the data set `parts`: which parts lie where, over one another, and what has happened to them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from segzoo.data.synthetic.lighting import Lamp, belt, camera, finish, metal, shadow
from segzoo.data.synthetic.shapes import KINDS, Solid, dent, scratch

BELT, SCRATCH, DENT = 0, len(KINDS) + 1, len(KINDS) + 2


class Scene(NamedTuple):
    """One image: gray (H, W) uint8, label (H, W) uint8 of train ids, kind (H, W) uint8: the same without the defects.

    While it is being drawn, gray is the float32 brightness that reaches the lens, 1 being white.
    """

    gray: np.ndarray
    label: np.ndarray
    kind: np.ndarray


def render_scene(rng: Generator, height: int, width: int, objects: tuple[int, int]) -> Scene:
    """Draws one scene: belt, then part over part with shadows and defects, then the camera's light, blur and noise."""
    scale = min(height, width) / 192
    turn = rng.uniform(-2.6, -1.8)  # the lamp is fixed to the machine, above left of the camera
    lamp = Lamp(math.cos(turn), math.sin(turn), rng.uniform(0.25, 0.5), rng.uniform(0.16, 0.3), rng.uniform(0.5, 1.2))
    canvas = belt(rng, height, width, scale)
    label = np.zeros((height, width), np.uint8)
    kind = np.zeros((height, width), np.uint8)
    zoom = scale * rng.uniform(1.25, 1.55)
    for number, size, x, y in _arrange(rng, height, width, zoom, int(rng.integers(objects[0], objects[1] + 1))):
        _place(rng, Scene(canvas, label, kind), number, size, (x, y), zoom, lamp)
    return Scene(camera(rng, canvas), label, kind)


def _arrange(rng: Generator, height: int, width: int, zoom: float, count: int) -> list[tuple[int, float, float, float]]:
    """Kind, size and center of each part: mostly the freest of sixteen spots, sometimes a blind throw that makes a pile."""
    placed: list[tuple[int, float, float, float]] = []
    for _ in range(count):
        number = int(rng.integers(len(KINDS)))
        size = zoom * rng.uniform(KINDS[number].min_count, KINDS[number].max_count)
        spots = [(width * rng.uniform(0.08, 0.92), height * rng.uniform(0.1, 0.9)) for _ in range(16)]
        room = [min([math.hypot(x - p[2], y - p[3]) - 0.45 * p[1] for p in placed], default=0.0) for x, y in spots]
        x, y = spots[0] if rng.random() < 0.06 else spots[room.index(max(room))]
        placed.append((number, size, x, y))
    return placed


def _place(rng: Generator, scene: Scene, number: int, size: float, center: tuple[float, float], zoom: float, lamp: Lamp) -> None:
    """Paints one part with its defects over the scene, its shadow first; works in place."""
    turn = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(turn), math.sin(turn)
    kind = KINDS[number]
    tall = kind.tall * size
    margin = int(max(1.35 * tall * lamp.reach, 0.6 * tall) + 4)  # of the shadow around the part, pixels
    reach = int(0.5 * size + 2) + margin
    left, top = int(center[0]) - reach, int(center[1]) - reach
    dx = (np.arange(2 * reach + 1, dtype=np.float32) + np.float32(left - center[0]))[None, :]
    dy = (np.arange(2 * reach + 1, dtype=np.float32) + np.float32(top - center[1]))[:, None]
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    solid = kind.draw(rng, u, v, size)
    window, cut = _overlap(scene.label.shape, left, top, 2 * reach + 1)
    scene.gray[window] *= shadow(solid.distance, tall, lamp)[cut]

    inner = (slice(margin, -margin), slice(margin, -margin))
    u, v, solid = u[inner], v[inner], Solid(solid.distance[inner], solid.relief[inner], solid.rotated)
    label = np.full(u.shape, number + 1, np.uint8)
    relief, glint = _damage(rng, solid, label, u, v, zoom)
    marks = finish(rng, solid.rotated, u, v, (lamp.x * cos + lamp.y * sin, lamp.y * cos - lamp.x * sin))
    shine = rng.uniform(kind.dark, kind.bright) * metal(rng, relief, lamp, zoom) * marks
    shine = shine * (1.0 + np.minimum(glint, 0.0)) + np.maximum(glint, 0.0)
    window, cut = _overlap(scene.label.shape, left + margin, top + margin, u.shape[0])
    cover = np.clip(0.5 - solid.distance[cut], 0.0, 1.0)
    scene.gray[window] += cover * (shine[cut] - scene.gray[window])
    mask = solid.distance[cut] < 0
    scene.label[window][mask] = label[cut][mask]
    scene.kind[window][mask] = number + 1


def _overlap(shape: tuple[int, ...], left: int, top: int, side: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a square patch, its center in the image, meets the image: as slices of the image and as slices of the patch."""
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
    surface = np.flatnonzero(solid.distance < -5 * zoom)
    count = (0, 1, 1, 2)[int(rng.integers(4))] if surface.size else 0
    for _ in range(count):
        spot = int(surface[int(rng.integers(surface.size))])
        is_scratch = rng.random() < 0.42
        turn = rng.uniform(0, math.pi) if solid.rotated or not is_scratch else rng.uniform(-0.5, 0.5)
        du, dv = u - u[np.unravel_index(spot, u.shape)], v - v[np.unravel_index(spot, u.shape)]
        a, b = du * math.cos(turn) + dv * math.sin(turn), dv * math.cos(turn) - du * math.sin(turn)
        inside, depth = (scratch if is_scratch else dent)(rng, a, b, zoom)
        relief = relief - (3.0 if is_scratch else 6.0) * zoom * depth
        glint[inside] = depth[inside] * (rng.uniform(0.9, 1.2) if is_scratch else rng.uniform(-0.9, -0.8))
        label[inside] = SCRATCH if is_scratch else DENT
    return relief, glint
