"""Samples become a batch: each is checked while its file is still known, then they are stacked."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import default_collate

from segzoo.types import Batch, DataError, DatasetInfo, Sample


def check_sample(sample: Sample, info: DatasetInfo) -> None:
    """Rejects a sample that would fail later, where no file is known any more: on a CUDA device a wrong label halts the process.

    Raises:
        DataError: image and label are not (H, W, 3) uint8 and (H, W) uint8 or uint16; a label is neither a class nor ignore.
    """
    image, label = sample.image, sample.label
    if image.dtype != np.uint8 or label.dtype not in (np.uint8, np.uint16) or label.ndim != 2 or image.shape != (*label.shape, 3):
        raise DataError(
            f"{sample.name}: wanted an image (H, W, 3) uint8 and a label (H, W) uint8 or uint16 of the same size, got "
            f"{image.shape} {image.dtype} and {label.shape} {label.dtype}; check the data set's reader"
        )
    beyond = label >= info.num_classes
    if np.count_nonzero(beyond) != np.count_nonzero(label == info.ignore):  # 1 ms for 1024x2048
        values, counts = np.unique(label[beyond & (label != info.ignore)], return_counts=True)
        found = ", ".join(f"{value} ({count} pixels)" for value, count in zip(values[:8], counts[:8], strict=True))
        raise DataError(
            f"{sample.name}: the label holds {found}; wanted train ids 0..{info.num_classes - 1}, or {info.ignore} to ignore. "
            "Map raw values to train ids in data.label_map"
        )


def collate(items: list[tuple[Sample, int] | DataError]) -> Batch | DataError:
    """Stacks samples: image (N, H, W, 3) uint8, label (N, H, W) uint8, or int32 if any label is uint16. Hands on the first error."""
    pairs = []
    for item in items:
        if isinstance(item, DataError):
            return item
        pairs.append(item)
    samples, indices = zip(*pairs, strict=True)
    first = samples[0]
    for sample in samples:
        if sample.label.shape != first.label.shape:
            sizes = [f"{one.name} is {one.label.shape[0]}x{one.label.shape[1]}" for one in (first, sample)]
            return DataError(
                f"images of one training batch differ in size (HxW): {', '.join(sizes)}; give all one size with augment.crop=[H,W], "
                "or train with batch_size=1"
            )
    wide = any(sample.label.dtype != np.uint8 for sample in samples)
    image = default_collate([_tensor(sample.image) for sample in samples])  # in a worker, stacked straight into shared memory
    label = default_collate([_tensor(sample.label.astype(np.int32) if wide else sample.label) for sample in samples])
    return Batch(image, label, tuple(sample.name for sample in samples), indices)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.require(array, requirements=("C", "W")))
