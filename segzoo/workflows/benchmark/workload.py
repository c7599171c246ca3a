"""What a bench measures: a trained or a fresh network, and images for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from segzoo.config.build import build_data, build_model
from segzoo.config.from_checkpoint import check_same_model, dataset_config, load_checkpoint
from segzoo.registry import DATA, ConfigError, Range

if TYPE_CHECKING:
    import numpy as np
    import torch

    from segzoo.models._base import SegModel
    from segzoo.types import Dataset, DatasetInfo

Side = Annotated[int, Range(33, 8192)]


class Workload(NamedTuple):
    """A network to be measured, in evaluation mode on the CPU.

    ``weights`` says where its weights come from; ``config`` holds its ``model`` and ``backbone`` sections.
    """

    model: SegModel
    info: DatasetInfo
    data: Dataset
    config: Mapping[str, Any]
    weights: str


def build_workload(
    config: Mapping[str, Any], *, ckpt: str | None = None, num_classes: Annotated[int, Range(1, 255)] | None = None, seed: int = 0
) -> Workload:
    """The network of a checkpoint, or a fresh one that scores every class and whose norms have seen a few images.

    Args:
        config: its ``model``, ``backbone`` and ``data`` sections; what is null comes from the checkpoint. Without a checkpoint,
            data that is null is ``parts``.
        ckpt: a run directory, a checkpoint directory or a ``.safetensors`` file; null makes random weights.
        classes: how many classes a fresh network scores, 19 if null; a checkpoint has its own.
        seed: of the random weights.

    Raises:
        ConfigError: neither a model nor a checkpoint is given, or they contradict each other.
    """
    import torch

    if ckpt is not None:
        model, info, meta = load_checkpoint(ckpt=ckpt)
        check_same_model(meta, config)
        if num_classes not in (None, info.num_classes):
            raise ConfigError(
                f"num_classes={num_classes} contradicts the checkpoint, which has {info.num_classes}. Leave num_classes= away."
            )
        return Workload(model, info, build_data(dataset_config(meta, config.get("data")), "val"), meta["config"], meta["sha256"])
    if config.get("model") is None:
        raise ConfigError("there is nothing to measure: say model=<name> for random weights, or ckpt=<run directory>")
    data = build_data(config["data"], "val") if config.get("data") else DATA.build("parts", "val")
    torch.manual_seed(seed)
    model = build_model(config, num_classes or 19).eval()
    model.info = data.info
    init_zero_classifiers_(model)
    _calibrate_batch_norm(model, [data[i].image for i in range(min(4, len(data)))], data.info)
    return Workload(model, data.info, data, config, f"random, seed {seed}, {_hash(model)}")


def benchmark_images(data: Dataset, count: int, *, hw: tuple[Side, Side] = (1024, 2048)) -> list[np.ndarray]:
    """Images of a data set brought to one size by bilinear resampling, (H, W, 3) uint8 each.

    Args:
        data: where they come from, spread over it.
        count: how many.
        hw: height and width in pixels.
    """
    import cv2

    images = (data[i * len(data) // count].image for i in range(count))
    return [cv2.resize(image, hw[::-1], interpolation=cv2.INTER_LINEAR) for image in images]


def init_zero_classifiers_(model: torch.nn.Module) -> None:
    """Draws the scores that start at zero, as FCN's do: a network that calls everything class 0 agrees with anything."""
    import torch

    from segzoo.layers.conv import Classifier

    for layer in model.modules():
        if isinstance(layer, Classifier) and not layer.weight.any():
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")


def _calibrate_batch_norm(model: SegModel, images: list[np.ndarray], info: DatasetInfo) -> None:
    """Gives the norms of a fresh network the statistics of some images, so that its maps have the sizes of a trained one's."""
    import torch

    from segzoo.layers.normalize import normalize

    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.ones_(norm.weight)  # some start at zero, which would leave their branch out
        norm.momentum = None  # a plain mean
        norm.train()
    with torch.no_grad():
        for image in images:
            model(normalize(torch.from_numpy(image[None]), info, torch.device("cpu")))
    for norm in norms:
        norm.momentum = 0.1
        norm.eval()


def _hash(model: SegModel) -> str:
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:12]
