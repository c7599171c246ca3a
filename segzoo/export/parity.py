"""Whether an exported network labels images as the network does, shown on sizes that were never traced; and where it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segzoo.types import Dataset, DatasetInfo, ParityError
from segzoo.visualization import comparison_panel, image_grid

SIZES = ((64, 64), (65, 97), (97, 65), (128, 160), (161, 225), (199, 256))  # odd, even, wide and tall
NUM_IMAGES = 8  # at least
RunFn = Callable[[np.ndarray], np.ndarray]  # (N, H, W, 3) uint8 -> (N, H, W) labels


def parity_images(dataset: Dataset, hw: tuple[int, int] | None) -> list[np.ndarray]:
    """Parts of a data set's images, spread over it, of the fixed size or of sizes that an export never saw; at least eight."""
    import cv2

    found = []
    sizes = [hw] * NUM_IMAGES if hw else [*SIZES, *SIZES[: NUM_IMAGES - len(SIZES)]]
    for number, (height, width) in enumerate(sizes):
        image = dataset[number * len(dataset) // len(sizes)].image
        if image.shape[0] < height or image.shape[1] < width:
            image = cv2.resize(image, (max(width, image.shape[1]), max(height, image.shape[0])))
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        found.append(np.ascontiguousarray(image[top : top + height, left : left + width]))
    return found


@torch.no_grad()
def check_parity(
    run: RunFn, net: nn.Module, pictures: Sequence[np.ndarray], info: DatasetInfo, folder: Path, *, min_agreement: float
) -> list[dict[str, Any]]:
    """Labels each image both ways, in a batch of two with its mirror image and alone.

    Args:
        run: the exported network.
        net: the network itself: (N, H, W, 3) uint8 -> labels first.
        images: (H, W, 3) uint8.
        info: colors and names, for the image of where they differ.
        folder: where that image goes.
        least: share of equal labels wanted of every image, 0 to 1.

    Returns:
        ``hw`` of each image, its smallest ``agreement``: mirrored or not, alone or in a batch; and how many ``classes`` the network
        finds in it. Where that is one everywhere, agreement shows little.

    Raises:
        ParityError: an image agrees less; ``where.png`` shows it beside both label maps.
    """
    rows = []
    for picture in pictures:
        size = f"{picture.shape[0]}x{picture.shape[1]}"
        both = np.stack([picture, picture[:, ::-1]])
        wanted = net(torch.from_numpy(both))[0].numpy()
        shares = {}
        for batch in (both, both[:1]):
            found = run(batch)
            if found.shape != batch.shape[:3]:
                raise ParityError(f"{size}: the export gave labels {found.shape}, wanted {batch.shape[:3]}")
            for image, ours, theirs in zip(batch, found, wanted, strict=False):
                shares[float((ours == theirs).mean())] = (image, theirs, ours)
        agreement = min(shares)
        rows.append({"hw": list(picture.shape[:2]), "agreement": agreement, "classes": len(np.unique(wanted))})
        if agreement < min_agreement:
            image, theirs, ours = shares[agreement]
            _save_mismatch(image, theirs, ours, info, folder / "mismatch.png")
            raise ParityError(
                f"{size}: only {agreement:.2%} of the labels are the network's, wanted {min_agreement:.2%}; "
                f"{folder / 'where.png'} shows where. The file was not kept."
            )
    return rows


def _save_mismatch(image: np.ndarray, wanted: np.ndarray, found: np.ndarray, info: DatasetInfo, path: Path) -> None:
    from PIL import Image

    shown = comparison_panel(image, wanted.astype(np.uint8), found.astype(np.uint8), info, "network, export")
    Image.fromarray(image_grid([shown])).save(path)
