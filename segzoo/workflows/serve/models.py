"""Networks that the service runs, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segzoo.config.checks.serving import served_paths
from segzoo.config.from_checkpoint import checkpoint_title
from segzoo.config.from_export import load_network, network_protocol, run_as_configured
from segzoo.device import DeviceName, PrecisionName
from segzoo.inference.protocol import InferenceProtocol, check_label_size
from segzoo.inference.threshold import Thresholds
from segzoo.types import DatasetInfo, PlainDict, PlainMapping

if TYPE_CHECKING:
    from segzoo.inference.prediction.result import Prediction
    from segzoo.inference.prediction.segmenter import Segmenter


@dataclass(frozen=True)
class ServedModel:
    """A network with how it labels images.

    Attributes:
        name: its name in requests.
        title: ``<model>-<backbone>-<data>``.
        network: the network in evaluation mode, with its ``info``.
        protocol: windows, scales, flip, post-processing and thresholds.
    """

    name: str
    title: str
    network: Segmenter
    protocol: InferenceProtocol

    @property
    def info(self) -> DatasetInfo:
        """Classes and colors."""
        assert self.network.info is not None
        return self.network.info

    @property
    def has_probabilities(self) -> bool:
        """False for an exported file that has only labels."""
        return self.network.has_logits

    def predict(self, images: Sequence[np.ndarray], confidence: bool) -> list[Prediction]:
        """Label images of one size in one forward pass."""
        threshold = None if self.protocol.threshold else {}  # an exported file would take the one that it records
        return self.network.predict(  # type: ignore[return-value]  # a list for a list
            list(images), confidence=confidence, protocol=self.protocol, batch_size=len(images), threshold=threshold
        )

    def describe(self) -> PlainDict:
        """Describe the model for clients."""
        classes = [{"name": name, "color": list(color)} for name, color in zip(self.info.classes, self.info.palette, strict=True)]
        return {
            "name": self.name,
            "title": self.title,
            "classes": classes,
            "background": self.info.background,
            "confidence": self.has_probabilities,
            **self.info.pixels._asdict(),
        }


def load_models(
    config: PlainMapping,
    *,
    ckpt: str | None = None,
    bundle: str | None = None,
    models: dict[str, str] | None = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
    threshold: Thresholds | None = None,
) -> dict[str, ServedModel]:
    """Load the models to serve.

    Args:
        config: the settings of the tool, for its ``protocol``, ``post`` and ``runtime``.
        ckpt: path of a model, as ``load_network`` takes it.
        bundle: path of a bundle that ``tools/export.py`` wrote.
        models: name -> path of several models, instead of one.
        device, precision, threshold: as in ``tools/predict.py``.

    Returns:
        The models by name, the first being the default. A single one is called ``default``.

    Raises:
        ConfigError: there is no model or more than one kind of setting for it, or one cannot be loaded.
    """
    served = {}
    for name, path in served_paths(ckpt, bundle, models).items():
        own = {**config, "ckpt": path, "device": device, "precision": precision, "threshold": threshold}
        loaded, info, meta = load_network(own, ckpt=path)
        protocol, notes = network_protocol(own, loaded, info, meta, threshold)
        check_label_size(protocol)
        for note in notes:
            print(f"note: {name}: {note}", flush=True)
        served[name] = ServedModel(name, checkpoint_title(meta), run_as_configured(own, loaded)[0], protocol)
    return served
