"""Networks of a cross-validation, which judge images new to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segzoo.data.splits import read_list
from segzoo.messages import did_you_mean, format_override, printable
from segzoo.registry import ConfigError
from segzoo.types import DataError, Dataset, DatasetInfo

if TYPE_CHECKING:
    from torch import nn

    from segzoo.device import Precision


def networks_by_image(dataset: Dataset, ckpts: Sequence[str], held_out: Sequence[str] | None) -> list[list[int]]:
    """Assign to each image the networks that were not trained on it.

    Args:
        dataset: the images.
        ckpts: the checkpoints.
        held_out: a list file for each checkpoint, of images that it was not trained on. None assigns a single checkpoint to all images.

    Returns:
        Positions in ``ckpts`` for each image; none for an image in no list.

    Raises:
        ConfigError: there is not one list per checkpoint.
        DataError: a list names an image that the data set does not have.
    """
    if held_out is None and len(ckpts) == 1:
        return [[0] for _ in range(len(dataset))]
    if held_out is None or len(held_out) != len(ckpts):
        raise ConfigError(
            f"action.held_out has {len(held_out or ())} lists for {len(ckpts)} checkpoints. Give one list per checkpoint, of the images "
            f"that it was not trained on: {format_override('action.held_out', [f'fold{n}.txt' for n in range(len(ckpts))])}."
        )
    names = [dataset.name(index) for index in range(len(dataset))]
    index_of = {name: index for index, name in enumerate(names)}
    if len(index_of) < len(names):
        name = next(name for index, name in enumerate(names) if index_of[name] != index)
        raise DataError(
            f"data={dataset.info.name} holds several images named {printable(name)!r}, which lists cannot tell apart. Set action.split."
        )
    assigned: list[list[int]] = [[] for _ in names]
    for number, path in enumerate(held_out):
        for stem in read_list(Path(path)):
            if stem not in index_of:
                hint = did_you_mean(stem, list(index_of))
                raise DataError(f"{path}: there is no image {printable(stem)!r} in data={dataset.info.name}.{hint}")
            assigned[index_of[stem]].append(number)
    return assigned


def mean_probabilities(networks: Sequence[tuple[nn.Module, DatasetInfo]], image: np.ndarray, precision: Precision) -> np.ndarray:
    """Predict the class probabilities of an image, averaged over networks.

    Args:
        networks: at least one network, on the device, and the dataset info that it was trained with.
        image: (H, W, 3) uint8.
        precision: precision of the layers.

    Shapes:
        -> (K, H, W) float32
    """
    import torch

    from segzoo.inference.protocol import SINGLE_PASS
    from segzoo.inference.segment import predict_probabilities
    from segzoo.layers.normalize import normalize

    batch = torch.from_numpy(image)[None]
    with torch.no_grad():
        predicted = [
            predict_probabilities(network, normalize(batch, info, precision.device), SINGLE_PASS, precision)[0].float()
            for network, info in networks
        ]
        return torch.stack(predicted).mean(0).cpu().numpy()
