"""Scenes of the data set ``parts``: arrangement of parts and defects."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from segzoo.data.synthetic.lighting import Lamp, belt, camera, finish, metal, shadow
from segzoo.data.synthetic.shapes import KINDS, Solid, dent, scratch

BELT, SCRATCH, DENT = 0, len(KINDS) + 1, len(KINDS) + 2


class Scene(NamedTuple):
    """One rendered image.

    Attributes:
        gray: (H, W) uint8. While the scene is being drawn, the float32 brightness that reaches the lens, where 1 is white.
        label: (H, W) uint8 train ids.
        kind: (H, W) uint8 train ids without the defects.
    """

    gray: np.ndarray
    label: np.ndarray
    kind: np.ndarray


def render_scene(rng: Generator, height: int, width: int, objects: tuple[int, int]) -> Scene:
    """Draw one scene.

    The belt comes first, then one part after the other with shadows and defects, and last the light, blur and noise of the camera.
    """
    scale = min(height, width) / 192
    azimuth = rng.uniform(-2.6, -1.8)  # the lamp is fixed to the machine, above and to the left of the camera
    lamp = Lamp(math.cos(azimuth), math.sin(azimuth), rng.uniform(0.25, 0.5), rng.uniform(0.16, 0.3), rng.uniform(0.5, 1.2))
    canvas = belt(rng, height, width, scale)
    label = np.zeros((height, width), np.uint8)
    kind = np.zeros((height, width), np.uint8)
    zoom = scale * rng.uniform(1.25, 1.55)
    for number, size, x, y in _arrange(rng, height, width, zoom, int(rng.integers(objects[0], objects[1] + 1))):
        _draw_part(rng, Scene(canvas, label, kind), number, size, (x, y), zoom, lamp)
    return Scene(camera(rng, canvas), label, kind)


def _arrange(rng: Generator, height: int, width: int, zoom: float, count: int) -> list[tuple[int, float, float, float]]:
    """Choose the kind, size and center of each part.

    A part usually goes to the emptiest of sixteen random spots, and sometimes to the first one, which creates piles.
    """
    placed: list[tuple[int, float, float, float]] = []
    for _ in range(count):
        number = int(rng.integers(len(KINDS)))
        size = zoom * rng.uniform(KINDS[number].min_size, KINDS[number].max_size)
        spots = [(width * rng.uniform(0.08, 0.92), height * rng.uniform(0.1, 0.9)) for _ in range(16)]
        clearance = [min([math.hypot(x - p[2], y - p[3]) - 0.45 * p[1] for p in placed], default=0.0) for x, y in spots]
        x, y = spots[0] if rng.random() < 0.06 else spots[clearance.index(max(clearance))]
        placed.append((number, size, x, y))
    return placed


def _draw_part(
    rng: Generator, scene: Scene, number: int, size: float, center: tuple[float, float], zoom: float, lamp: Lamp
) -> None:
    """Draw a part with its shadow and defects in place."""
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    kind = KINDS[number]
    height = kind.relative_height * size
    margin = int(max(1.35 * height * lamp.shadow_length, 0.6 * height) + 4)  # pixels around the part that its shadow may cover
    radius = int(0.5 * size + 2) + margin
    left, top = int(center[0]) - radius, int(center[1]) - radius
    dx = (np.arange(2 * radius + 1, dtype=np.float32) + np.float32(left - center[0]))[None, :]
    dy = (np.arange(2 * radius + 1, dtype=np.float32) + np.float32(top - center[1]))[:, None]
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    solid = kind.draw(rng, u, v, size)
    window, patch = _overlap(scene.label.shape, left, top, 2 * radius + 1)
    scene.gray[window] *= shadow(solid.distance, height, lamp)[patch]

    inner = (slice(margin, -margin), slice(margin, -margin))
    u, v, solid = u[inner], v[inner], Solid(solid.distance[inner], solid.relief[inner], solid.turned)
    label = np.full(u.shape, number + 1, np.uint8)
    relief, glint = _add_defects(rng, solid, label, u, v, zoom)
    marks = finish(rng, solid.turned, u, v, (lamp.x * cos + lamp.y * sin, lamp.y * cos - lamp.x * sin))
    brightness = rng.uniform(kind.dark, kind.bright) * metal(rng, relief, lamp, zoom) * marks
    brightness = brightness * (1.0 + np.minimum(glint, 0.0)) + np.maximum(glint, 0.0)
    window, patch = _overlap(scene.label.shape, left + margin, top + margin, u.shape[0])
    coverage = np.clip(0.5 - solid.distance[patch], 0.0, 1.0)
    scene.gray[window] += coverage * (brightness[patch] - scene.gray[window])
    mask = solid.distance[patch] < 0
    scene.label[window][mask] = label[patch][mask]
    scene.kind[window][mask] = number + 1


def _overlap(shape: tuple[int, ...], left: int, top: int, side: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Overlap of the image and a square patch.

    The center of the patch must be inside the image.

    Returns:
        The overlap as slices of the image, and as slices of the patch.
    """
    rows = slice(max(0, top), max(0, min(shape[0], top + side)))
    columns = slice(max(0, left), max(0, min(shape[1], left + side)))
    return (rows, columns), (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))


def _add_defects(
    rng: Generator, solid: Solid, label: np.ndarray, u: np.ndarray, v: np.ndarray, zoom: float
) -> tuple[np.ndarray, np.ndarray]:
    """Add up to two defects to a part.

    Their train ids are written to ``label``.

    Returns:
        The new relief, and the glint: positive values are light added by the bare metal of a scratch, negative ones the fraction of
        light absorbed by a dent.
    """
    relief, glint = solid.relief, np.zeros_like(solid.relief)
    surface = np.flatnonzero(solid.distance < -5 * zoom)
    count = (0, 1, 1, 2)[int(rng.integers(4))] if surface.size else 0
    for _ in range(count):
        spot = int(surface[int(rng.integers(surface.size))])
        is_scratch = rng.random() < 0.42
        angle = rng.uniform(0, math.pi) if solid.turned or not is_scratch else rng.uniform(-0.5, 0.5)
        du, dv = u - u[np.unravel_index(spot, u.shape)], v - v[np.unravel_index(spot, u.shape)]
        a, b = du * math.cos(angle) + dv * math.sin(angle), dv * math.cos(angle) - du * math.sin(angle)
        inside, depth = (scratch if is_scratch else dent)(rng, a, b, zoom)
        relief = relief - (3.0 if is_scratch else 6.0) * zoom * depth
        glint[inside] = depth[inside] * (rng.uniform(0.9, 1.2) if is_scratch else rng.uniform(-0.9, -0.8))
        label[inside] = SCRATCH if is_scratch else DENT
    return relief, glint
