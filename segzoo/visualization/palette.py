"""Default colors of classes.

The first seven are those of Okabe and Ito, Color Universal Design, 2002, which people with any kind of color vision tell apart.
"""

from __future__ import annotations

from functools import cache
from itertools import islice

from segzoo.class_names import background_id

Color = tuple[int, int, int]

BACKGROUND: Color = (0, 0, 0)
OKABE_ITO: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
MIN_LIGHTNESS = 0.45  # of further colors, so that they stand out from dark images; black has 0, white 1
SPACED = 256  # further colors are too similar for the eye and only have to differ


def default_palette(classes: tuple[str, ...]) -> tuple[Color, ...]:
    """Give each class its own color, and the background black."""
    if background_id(classes) is None:
        return distinct_colors(len(classes))
    return (BACKGROUND, *distinct_colors(len(classes) - 1))


@cache
def distinct_colors(count: int) -> tuple[Color, ...]:
    """Choose colors that differ from one another and from black.

    After those of Okabe and Ito, each is the color of a grid that lies farthest from all before.
    """
    colors = list(OKABE_ITO[:count])
    if count > len(colors):
        colors += _farthest_colors(min(count, SPACED) - len(colors))
    used = {BACKGROUND, *colors}
    further = (color for color in voc_palette(count + len(used)) if color not in used)
    return (*colors, *islice(further, count - len(colors)))


def _farthest_colors(count: int) -> list[Color]:
    """Extend the first colors by ``count``.

    The distance of two colors is the smallest that a person with normal, red-blind or green-blind vision sees.
    """
    import numpy as np

    levels = np.linspace(0, 255, 16).round().astype(int)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    grid = grid[_perceived(grid)[0, :, 0] > MIN_LIGHTNESS]
    seen = _perceived(np.concatenate([grid, [BACKGROUND, (255, 255, 255), *OKABE_ITO]]))
    distances = np.full(len(grid), np.inf)
    chosen = list(range(len(grid), seen.shape[1]))
    for number in range(len(chosen) + count):
        if number == len(chosen):
            chosen.append(int(distances.argmax()))
        difference = np.linalg.norm(seen[:, : len(grid)] - seen[:, chosen[number], None], axis=-1).min(0)
        distances = np.minimum(distances, difference)
    return [(int(red), int(green), int(blue)) for red, green, blue in grid[chosen[-count:]]]


def _perceived(rgb):
    """Compute the coordinates of colors as people perceive them.

    They are those of Oklab (Ottosson 2020), for normal, red-blind and green-blind vision. Color blindness is simulated as by Machado et al., TVCG 2009, at full severity.

    Shapes:
        (N, 3) in 0 to 255 -> (3, N, 3)
    """
    import numpy as np

    red_blind = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    green_blind = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    linear = np.where(rgb > 10.3, ((rgb / 255 + 0.055) / 1.055) ** 2.4, rgb / 255 / 12.92)
    visions = np.stack([linear, *(np.clip(linear @ np.transpose(vision), 0, 1) for vision in (red_blind, green_blind))])
    return np.cbrt(visions @ np.transpose(to_lms)) @ np.transpose(to_lab)


def voc_palette(count: int) -> tuple[Color, ...]:
    """Color table of Pascal VOC, extended to any number of classes.

    The bits of the class index are distributed over the three channels, most significant channel bit first.
    """
    colors = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append(tuple(channels))
    return tuple(colors)
