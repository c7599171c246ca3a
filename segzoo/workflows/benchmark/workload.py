"""Benchmark workloads: a trained or randomly initialized network, and images."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NamedTuple

from segzoo.config.build import build_data, build_model
from segzoo.config.checks.required_model import benchmark_errors, scoring_errors
from segzoo.config.from_checkpoint import check_same_model, dataset_config, image_patterns, load_checkpoint
from segzoo.config.from_weights import Policy, load_weights
from segzoo.config.images import choose_images
from segzoo.messages import Example
from segzoo.registry import DATA, ConfigError, Range, Seed
from segzoo.types import PlainMapping
from segzoo.visualization.palette import default_palette

if TYPE_CHECKING:
    import numpy as np
    import torch

    from segzoo.models._base import SegModel
    from segzoo.types import DatasetInfo, Images

Size = Annotated[tuple[int, int], Range(33, 8192), Example([480, 640])]


class Workload(NamedTuple):
    """A network to benchmark, in evaluation mode on the CPU."""

    model: SegModel
    info: DatasetInfo
    images: Images
    images_title: str  # where they are from
    config: PlainMapping  # with its ``model`` and ``backbone`` sections
    weights: str  # origin of the weights: checksum of the checkpoint, or seed and hash


def build_workload(
    config: PlainMapping,
    *,
    ckpt: str | None = None,
    images: str | None = None,
    num_classes: Annotated[int, Range(1, 255)] | None = None,
    seed: Seed = 0,
    normalization: Policy = "same",
) -> Workload:
    """Load a network from a checkpoint or ``init.ckpt``, or initialize one randomly.

    A random network predicts several classes, and its batch norm layers have the statistics of a few images.

    Args:
        config: ``model``, ``backbone``, ``data`` and ``init`` sections. Null sections come from the checkpoint. Without a checkpoint, ``data``
            defaults to ``parts``.
        ckpt: a run directory, a checkpoint directory or a ``.safetensors`` file. Null means ``init.ckpt``, or random weights without it.
        images: an image, a folder or a quoted glob pattern. Null takes the images of the data set, see ``choose_images``.
        num_classes: number of classes of a random network, 19 if null. A checkpoint has its own.
        seed: seed of the random weights.
        normalization: see ``segzoo.config.from_weights.choose_normalization``, for ``init.ckpt``.

    Raises:
        ConfigError: if neither a model nor a checkpoint is given, or they contradict each other.
    """
    import torch

    if ckpt is not None or (config.get("init") or {}).get("ckpt") is not None:
        if errors := scoring_errors({**config, "ckpt": ckpt}):
            raise ConfigError(errors)
        model, info, meta = load_weights(config, normalization) if ckpt is None else load_checkpoint(ckpt=ckpt)
        check_same_model(meta, config)
        if num_classes not in (None, info.num_classes):
            raise ConfigError(
                f"num_classes={num_classes} contradicts the checkpoint, which has {info.num_classes}. Omit num_classes=."
            )
        data = build_data(dataset_config(meta, config.get("data")), "val")
        chosen = choose_images(data, config.get("data") is not None, image_patterns(meta), images=images)
        return Workload(model, info, *chosen, meta["config"], meta["sha256"])
    if errors := benchmark_errors(config):
        raise ConfigError(errors)
    data = build_data(config["data"], "val") if config.get("data") else DATA.build("parts", "val")
    chosen = choose_images(data, True, images=images)
    torch.manual_seed(seed)
    model = build_model(config, num_classes or 19, data.info.pixels.channels).eval()
    model.info = info = _numbered_classes(data.info, num_classes or 19)
    init_zero_classifiers_(model)
    _calibrate_batch_norm(model, [chosen.images.image(i) for i in range(min(4, len(chosen.images)))], info)
    return Workload(model, info, *chosen, config, f"random, seed {seed}, {_weights_hash(model)}")


def _numbered_classes(info: DatasetInfo, num_classes: int) -> DatasetInfo:
    """Replace the classes of a data set by numbers.

    It stays as it is if it has as many.
    """
    if info.num_classes == num_classes:
        return info
    classes = tuple(f"class {number}" for number in range(num_classes))
    return replace(info, classes=classes, palette=default_palette(classes), label_map={})


def benchmark_images(images: Images, count: int, *, hw: Size = (1024, 2048)) -> list[np.ndarray]:
    """Take images spread over a data set, as ``spread_images`` does."""
    from segzoo.export.parity import spread_images

    return spread_images(images, count, hw)


def init_zero_classifiers_(model: torch.nn.Module) -> None:
    """Randomly initialize classifiers whose weights are all zero.

    FCN's classifiers start at zero. Such a network predicts class 0 everywhere, so its agreement would say nothing.
    """
    import torch

    from segzoo.layers.conv import Classifier

    for layer in model.modules():
        if isinstance(layer, Classifier) and not layer.weight.any():
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")


def _calibrate_batch_norm(model: SegModel, images: list[np.ndarray], info: DatasetInfo) -> None:
    """Set the batch norm statistics of a random network from some images.

    Its activations then have magnitudes like those of a trained network.
    """
    import torch

    from segzoo.layers.normalize import normalize

    batch_norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for batch_norm in batch_norms:
        torch.nn.init.ones_(batch_norm.weight)  # zero-initialized weights would disable their branch
        batch_norm.momentum = None  # cumulative average
        batch_norm.train()
    with torch.no_grad():
        for image in images:
            model(normalize(torch.from_numpy(image[None]), info, torch.device("cpu")))
    for batch_norm in batch_norms:
        batch_norm.momentum = 0.1
        batch_norm.eval()


def _weights_hash(model: SegModel) -> str:
    """Hash the values of all tensors.

    ``checkpoints.serialization.state_dict_hash`` also includes names and shapes. Published results identify random weights by this hash,
    so it must not change.
    """
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:12]
