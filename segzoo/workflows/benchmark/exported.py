"""Benchmark of an exported file, which runs as it is."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.config.build import build_data
from segzoo.config.from_checkpoint import check_same_model, dataset_config, image_patterns
from segzoo.config.from_export import RUNTIMES_OF_FILES, load_exported, precision_errors, runtime_errors
from segzoo.config.images import choose_images
from segzoo.messages import format_override
from segzoo.registry import ConfigError
from segzoo.types import PlainDict, PlainMapping

if TYPE_CHECKING:
    from torch import Tensor

    from segzoo.inference.exported.network import ExportedNetwork
    from segzoo.runtimes._base import InferenceFn


def benchmark_exported(config: PlainMapping, file: Path, num_images: int, options: PlainMapping) -> PlainDict:
    """Time an exported file on the CPU.

    Nothing is known of its layers, and the original network is not at hand. So the row has neither operations nor an agreement.

    Args:
        config: a configuration of the bench tool.
        file: the exported file.
        num_images: number of images.
        options: the settings of ``measure.benchmark``.

    Returns:
        A row as that of ``run_benchmark``, without machine and versions.

    Raises:
        ConfigError: the settings contradict the file.
    """
    import torch

    from segzoo.layers.upsample_argmax import upsample_argmax
    from segzoo.workflows.benchmark.measure import LabelsFn, benchmark
    from segzoo.workflows.benchmark.workload import benchmark_images

    start = time.perf_counter()
    network, meta = load_exported(file)
    build_seconds = time.perf_counter() - start
    check_same_model(meta, config)
    _check_settings(config, file, network)
    data = build_data(dataset_config(meta, config.get("data")), "val")
    chosen = choose_images(data, config.get("data") is not None, image_patterns(meta), images=config.get("images"))
    hw, scope = tuple(config["hw"]), options["scope"]
    images = benchmark_images(chosen.images, num_images, hw=hw)
    row: PlainDict = {"file": str(file), "runtime": RUNTIMES_OF_FILES[file.suffix.lower()], "settings": {}, "hw": list(hw)}
    row |= {group: meta["config"][group]["name"] for group in ("model", "backbone")}
    row |= {"weights": meta["sha256"], "data": chosen.title, "params": None, "gmacs": None}
    row |= {"device": "cpu", "batch": options["batch"], "scope": scope, "threads": torch.get_num_threads()}
    infer: InferenceFn = network.label_images
    to_labels: LabelsFn = _unchanged
    if scope == "net" or not network.returns_labels:
        infer, to_labels = partial(_logits, network), partial(upsample_argmax, size=hw, align_corners=network.align_corners)
    result = benchmark(infer, to_labels, images, [], torch.device("cpu"), None, **{**options, "precision": network.precision})
    return row | result | {"precision": network.precision, "build_s": build_seconds}


def _check_settings(config: PlainMapping, file: Path, network: ExportedNetwork) -> None:
    """Raise ConfigError for settings that contradict the file."""
    runtime = None if config["runtime"]["name"] == "eager" else config["runtime"]["name"]  # eager is the default
    errors = [*precision_errors(network, config), *runtime_errors(file, runtime, config["device"])]
    if (fixed := network.metadata["hw"]) and list(fixed) != list(config["hw"]):
        errors.append(f"hw={list(config['hw'])}: the exported file takes {list(fixed)}. Set {format_override('hw', fixed)}.")
    if (init := config.get("init", {}).get("ckpt")) is not None:
        errors.append(f"init.ckpt={init}: the exported file has its own weights. Omit init.ckpt.")
    if (classes := config.get("num_classes")) not in (None, network.info.num_classes):
        errors.append(f"num_classes={classes}: the exported file has {network.info.num_classes}. Omit num_classes.")
    if config["scope"] == "net" and not network.has_logits:
        errors.append("scope=net: the exported file returns only labels. Set scope=net+labels, or export it with output=both.")
    if errors:
        raise ConfigError(errors)


def _logits(network: ExportedNetwork, images: Tensor) -> Tensor:
    return network.run(images)["logits"]


def _unchanged(labels: Tensor) -> Tensor:
    return labels
