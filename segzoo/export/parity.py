"""Parity check between an exported network and the original.

Both label the same images, at sizes that were never traced. If they disagree, an image shows where.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from segzoo.evaluation.evaluator import evaluate
from segzoo.export.formats import ExportModel
from segzoo.inference.exported.network import MAX_SIDE, MIN_SIDE, ExportedNetwork
from segzoo.inference.protocol import InferenceProtocol
from segzoo.transforms.warp import resize, with_channels
from segzoo.types import Dataset, DatasetInfo, Images, ParityError, PlainDict, Sample
from segzoo.visualization.panels import comparison_grid, comparison_panel

SIZES = ((64, 64), (65, 97), (97, 65), (128, 160), (161, 225), (199, 256))  # odd, even, wide and tall
NUM_IMAGES = 8


class _Comparison(NamedTuple):
    """Labels of one image by the network and by its export."""

    agreement: float  # fraction of equal labels
    image: np.ndarray
    expected: np.ndarray
    actual: np.ndarray


def spread_images(images: Images, count: int, hw: tuple[int, int]) -> list[np.ndarray]:
    """Take images spread over a data set, bilinearly resized to one size.

    Args:
        images: source of the images.
        count: number of images. They repeat if the source has fewer.
        hw: height and width in pixels.

    Returns:
        (H, W, C) each.
    """
    import cv2

    chosen = (images.image(i * len(images) // count) for i in range(count))
    return [with_channels(cv2.resize(image, hw[::-1], interpolation=cv2.INTER_LINEAR), image) for image in chosen]


def working_size(images: Images, hw: tuple[int, int] | None) -> tuple[int, int]:
    """Size at which an exported network is going to work.

    It is ``hw`` or the size of the first image, within the limits of a dynamic export.
    """
    if hw:
        return hw
    height, width = images.image(0).shape[:2]
    return min(max(height, MIN_SIDE), MAX_SIDE), min(max(width, MIN_SIDE), MAX_SIDE)


def parity_images(images: Images, hw: tuple[int, int] | None) -> list[np.ndarray]:
    """Take center crops of images spread over a data set.

    Args:
        images: source of the images. Smaller images are enlarged to the size of the crop.
        hw: height and width of the crops in pixels. None uses the working size and sizes that the export never traced.

    Returns:
        ``NUM_IMAGES`` images, (H, W, C) each.
    """
    import cv2

    crops = []
    sizes = [hw] * NUM_IMAGES if hw else [working_size(images, None), *SIZES, *SIZES][:NUM_IMAGES]
    for index, (height, width) in enumerate(sizes):
        image = images.image(index * len(images) // len(sizes))
        if image.shape[0] < height or image.shape[1] < width:
            image = with_channels(cv2.resize(image, (max(width, image.shape[1]), max(height, image.shape[0]))), image)
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        crops.append(np.ascontiguousarray(image[top : top + height, left : left + width]))
    return crops


@torch.no_grad()
def check_parity(
    exported: ExportedNetwork,
    network: nn.Module,
    images: Sequence[np.ndarray],
    info: DatasetInfo,
    folder: Path,
    *,
    min_agreement: float,
) -> list[PlainDict]:
    """Compare the labels of an exported network with the original's.

    Each image is labeled twice: alone, and in a batch with its mirror image. The original follows the thresholds of the file.

    Args:
        exported: the network of the file.
        network: the original, in evaluation mode.
        images: (H, W, C) each.
        info: colors and class names for ``mismatch.png``.
        folder: directory of ``mismatch.png``.
        min_agreement: required fraction of equal labels in every image, 0 to 1.

    Returns:
        For each image its ``hw``, the lowest ``agreement`` of its comparisons, and the number of ``classes`` that the network predicts.
        Agreement means little if that number is 1 everywhere.

    Raises:
        ParityError: if an image agrees less. ``mismatch.png`` shows it next to both label maps.
    """
    original = ExportModel(
        network, info.mean, info.std, input=info.pixels.dtype, output="labels", threshold=exported.threshold
    ).eval()
    rows = []
    for image in images:
        size = f"{image.shape[0]}x{image.shape[1]}"
        pair = np.stack([image, image[:, ::-1]])
        expected = original(torch.from_numpy(pair))[0].numpy()
        comparisons = []
        for batch in (pair, pair[:1]):
            actual = exported.label_images(torch.from_numpy(batch)).numpy()
            if actual.shape != batch.shape[:3]:
                raise ParityError(f"{size}: the export returned labels {actual.shape}, expected {batch.shape[:3]}")
            comparisons += [
                _Comparison(float((got == want).mean()), view, want, got)
                for view, want, got in zip(batch, expected, actual, strict=False)  # a batch of one uses the first label map alone
            ]
        worst = min(comparisons, key=lambda comparison: comparison.agreement)
        rows.append({"hw": list(image.shape[:2]), "agreement": worst.agreement, "classes": len(np.unique(expected))})
        if worst.agreement < min_agreement:
            path = folder / "mismatch.png"
            _save_mismatch(worst, info, path)
            raise ParityError(
                f"{size}: only {worst.agreement:.2%} of the labels equal the network's, expected {min_agreement:.2%}; "
                f"{path} shows where. The exported file was deleted."
            )
    return rows


class ResizedSamples:
    """Samples of another data set, whose images and labels get one size."""

    def __init__(self, samples: Dataset, hw: tuple[int, int]):
        self.samples, self.hw, self.info = samples, hw, samples.info

    def scan(self) -> object:
        """Find the samples."""
        return self.samples.scan()

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """Name of a sample."""
        return self.samples.name(index)

    def image(self, index: int) -> np.ndarray:
        """Resized image (H, W, C)."""
        return resize(self.samples.image(index), self.hw, flipped=False)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        image, label = (resize(array, self.hw, flipped=False) for array in (sample.image, sample.label))
        return sample._replace(image=image, label=label)


def check_accuracy(
    exported: ExportedNetwork, network: nn.Module, validation: Dataset, info: DatasetInfo, *, max_miou_drop: float
) -> PlainDict:
    """Compare the mIoU of an exported network with the original's.

    Args:
        exported, network, info: as in ``check_parity``.
        validation: labeled images; all of them are evaluated, as whole images and with the thresholds of the file. If that takes one size
            only, they are resized to it.
        max_miou_drop: the largest allowed difference, 0 to 1.

    Returns:
        Both scores, ``miou`` and ``exported_miou``, the number of ``images`` and ``max_miou_drop``.

    Raises:
        ParityError: if the exported network loses more.
    """
    protocol = InferenceProtocol(threshold=exported.threshold)
    if hw := exported.metadata["hw"]:
        validation = ResizedSamples(validation, tuple(hw))
    before, after = (
        evaluate(each, validation, info, protocol=protocol, device="cpu", workers=0).scores for each in (network, exported)
    )
    if (drop := before.miou - after.miou) > max_miou_drop:
        raise ParityError(
            f"the export loses {100 * drop:.2f} points of mIoU ({100 * before.miou:.2f} to {100 * after.miou:.2f}), expected at most "
            f"{100 * max_miou_drop:.2f}. The exported file was deleted. Raise calibration_images, or choose another precision."
        )
    return {"miou": before.miou, "exported_miou": after.miou, "images": before.images, "max_miou_drop": max_miou_drop}


def _save_mismatch(comparison: _Comparison, info: DatasetInfo, path: Path) -> None:
    """Write the image next to both label maps."""
    from PIL import Image

    expected, actual = comparison.expected, comparison.actual
    panel = comparison_panel(comparison.image, expected, actual, info, ("image", "network", "export", "differences"))
    Image.fromarray(comparison_grid([panel], [(expected, actual)], info)).save(path)
