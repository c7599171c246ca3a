"""Validation of samples and collation into batches."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import default_collate

from segzoo.data.jpeg_reduction import reduced_length
from segzoo.types import Batch, DataError, DatasetInfo, Sample


def check_sample(sample: Sample, info: DatasetInfo) -> None:
    """Reject a sample with invalid shapes, dtypes or train ids.

    The check runs while the file name is still known. On a CUDA device an out-of-range label would abort the process.

    Raises:
        DataError: the image has not the channels and bits of the data set, the label is not (H, W) uint8 or uint16 of its size, or a label is
            neither a class nor ignore.
    """
    image, label = sample.image, sample.label
    expected = (*(reduced_length(length, sample.reduction) for length in label.shape), info.pixels.channels)
    if image.dtype != info.pixels.dtype or label.dtype not in (np.uint8, np.uint16) or label.ndim != 2 or image.shape != expected:
        raise DataError(
            f"{sample.name}: expected an image (H, W, {info.pixels.channels}) {info.pixels.dtype} and a label (H, W) uint8 or uint16 of the same size, got "
            f"{image.shape} {image.dtype} and {label.shape} {label.dtype}; check the data set's reader"
        )
    out_of_range = (label >= info.num_classes) & (label != info.ignore)
    if out_of_range.any():
        values, counts = np.unique(label[out_of_range], return_counts=True)
        listed = ", ".join(f"{value} ({count} pixels)" for value, count in zip(values[:8], counts[:8], strict=True))
        raise DataError(
            f"{sample.name}: the label holds {listed}; expected train ids 0..{info.num_classes - 1}, or {info.ignore} to ignore. "
            "Map raw values to train ids in data.label_map"
        )


def collate(items: list[tuple[Sample, int] | DataError]) -> Batch | DataError:
    """Stack samples into a batch, or return the first error.

    The batch holds image (N, H, W, C) uint8 or uint16 and label (N, H, W) uint8, or int32 if any label is uint16.
    """
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
                f"images of one training batch differ in size (HxW): {', '.join(sizes)}; crop them to one size with "
                "'augment.crop=[H,W]', or train with batch_size=1"
            )
    has_uint16 = any(sample.label.dtype != np.uint8 for sample in samples)
    image = default_collate([_tensor(sample.image) for sample in samples])  # in a worker, stacked straight into shared memory
    label = default_collate([_tensor(sample.label.astype(np.int32) if has_uint16 else sample.label) for sample in samples])
    return Batch(image, label, tuple(sample.name for sample in samples), indices)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.require(array, requirements=("C", "W")))
