"""Images of the embedded data set."""

from __future__ import annotations

from functools import partial

from segzoo.data.datasets.parts import parts
from segzoo.inference.sources._base import Item, Source

IMAGES = 8
SIZE = (320, 416)  # height and width of the images that the pretrained network was trained on


def embedded_images() -> Source:
    """Render the first validation images of the data set ``parts``."""
    dataset = parts("val", height=SIZE[0], width=SIZE[1], val_images=IMAGES, cache=False)
    names = map(dataset.name, range(IMAGES))
    return Source([Item(name, f"{name} of data=parts", partial(dataset.image, k)) for k, name in enumerate(names)], IMAGES, [])
