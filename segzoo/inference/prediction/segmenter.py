"""Base of all networks that Python users segment images with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, overload

import torch
from torch import nn

from segzoo.device import Precision, RuntimePrecision
from segzoo.inference.outputs.confidence import ConfidenceMap
from segzoo.inference.prediction.inputs import ImageInput, InputImage, batches, to_tensor
from segzoo.inference.prediction.result import Prediction
from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol, check_label_size
from segzoo.inference.segment import labels_itself, segment_batch
from segzoo.inference.threshold import Threshold, with_threshold
from segzoo.io import plain_numbers
from segzoo.layers.modes import channels_last, eval_mode
from segzoo.layers.normalize import normalize
from segzoo.layers.upsample_argmax import label_dtype
from segzoo.registry import ConfigError
from segzoo.types import DataError, DatasetInfo, PlainDict


class Segmenter(nn.Module):
    """A network with ``predict``: ``forward(x) -> Logits`` for normalized images.

    Attributes:
        info: classes, colors, mean and std of the data set that the network was trained on.
        precision: precision of its layers in ``predict``.
        origin: metadata of the checkpoint that it was loaded from, or the configuration that it was created from, with ``channels`` of its
            convolutions at that time. None if they are unknown.
        threshold: the thresholds that an exported file records.
        divides_cores: whether calls in several threads of fewer cores each keep all cores busy.
        num_classes, align_corners: number of classes, and how its logits are upsampled.
        corner_multiple: sides of this multiple plus 1 are taken as they are, and other images are enlarged. None if no image is.
    """

    info: DatasetInfo | None = None
    precision: RuntimePrecision = "fp32"
    origin: PlainDict | None = None
    threshold: Threshold | None = None
    divides_cores: bool = True
    corner_multiple: int | None = None
    num_classes: int
    align_corners: bool

    @overload
    def predict(
        self,
        images: ImageInput,
        *,
        probabilities: bool = False,
        confidence: bool = False,
        protocol: InferenceProtocol = SINGLE_PASS,
        threshold: Mapping[str, float] | None = None,
        batch_size: int | None = None,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        images: list[Any] | tuple[Any, ...],
        *,
        probabilities: bool = False,
        confidence: bool = False,
        protocol: InferenceProtocol = SINGLE_PASS,
        threshold: Mapping[str, float] | None = None,
        batch_size: int | None = None,
    ) -> list[Prediction]: ...

    @torch.no_grad()
    def predict(
        self,
        images: ImageInput | list[Any] | tuple[Any, ...],
        *,
        probabilities: bool = False,
        confidence: bool = False,
        protocol: InferenceProtocol = SINGLE_PASS,
        threshold: Mapping[str, float] | None = None,
        batch_size: int | None = None,
    ) -> Prediction | list[Prediction]:
        """Segment an image or a list of images.

        It runs on the device of the network. The labels are those of ``tools/eval.py``. ``tools/predict.py`` fuses batch norm into the
        convolutions, and images of one size go through the network together here. Both may change a label where two classes are equally
        likely up to rounding. A model in training mode predicts in evaluation mode and is in training mode again afterward. Several threads may predict with a
        model in evaluation mode at the same time, as ``segzoo.load`` returns it. Other processes have to be spawned: PyTorch hangs in one that
        is forked after it has computed on several threads.

        Args:
            images: a path; an array (H, W, 3) or gray (H, W) of uint8; a tensor (H, W, 3) or (3, H, W) of uint8; a Pillow image; or a
                list of these, which gives a list. A network for other channels or for 16 bits takes arrays (H, W, C) of these. Files and Pillow images are read upright. Colors are RGB. Nothing can tell BGR, which
                OpenCV reads: pass the path, or ``image[..., ::-1]``.
            probabilities: also return the class probabilities, K times as many values as pixels.
            confidence: also return the highest class probability of each pixel.
            protocol: windows, scales, flip and post-processing, such as ``InferenceProtocol(crop=(193, 193), flip=True)`` of
                ``segzoo.inference.protocol``. Others than the default take one image after another.
            threshold: class name -> probability from which it is predicted, such as ``{"scratch": 0.3}``. None means that of
                an exported file or of the protocol, and an empty mapping none.
            batch_size: images of one size per forward pass. None takes up to 16 that have 4 megapixels together.

        Raises:
            ValueError: an input is not an image or is below 32 x 32 pixels, or the network has no ``info``.
            DataError: a file cannot be read. The message names it.
            ConfigError: the protocol or the threshold is invalid, or ``info`` has other classes than the network.
        """
        if self.info is None:
            raise ValueError(
                "predict() needs the classes, mean and std that the model was trained with, but model.info is None: set model.info to the "
                "DatasetInfo of the data, or load a checkpoint with segzoo.load, which sets it"
            )
        batch_size = plain_numbers(batch_size)
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise ValueError(f"batch_size={batch_size!r}, expected 1 or more, or None")
        if not isinstance(protocol, InferenceProtocol):
            raise ValueError(f"protocol={protocol!r}, expected an InferenceProtocol of segzoo.inference.protocol")
        if threshold is not None and not isinstance(threshold, Mapping):
            raise ValueError(f"threshold={threshold!r}, expected class names with probabilities, such as {{'scratch': 0.3}}")
        check_label_size(protocol)
        given = None if threshold is None else dict(threshold)
        info = self.checked_info()
        labeled_by = with_threshold(protocol, info, self.threshold, threshold=given)
        if (probabilities or confidence or not labels_itself(self, labeled_by)) and not self.has_logits:
            raise ConfigError("the exported file returns only labels. Export it with output=both for its logits.")
        is_list = isinstance(images, list | tuple)
        done: dict[int, Prediction] = {}
        with eval_mode(self), channels_last(self):
            for batch in batches(images if is_list else [images], batch_size, info.pixels):
                results = self._predict_batch(batch, labeled_by, probabilities, confidence, info)
                done |= {image.position: result for image, result in zip(batch, results, strict=True)}
        return [done[position] for position in range(len(done))] if is_list else done[0]

    def _predict_batch(
        self, batch: Sequence[InputImage], protocol: InferenceProtocol, probabilities: bool, confidence: bool, info: DatasetInfo
    ) -> list[Prediction]:
        """Segment images of one size."""
        layers, images = self._layers(), to_tensor(batch)
        strips: list[list[torch.Tensor]] = [[] for _ in batch]  # of probabilities, by image
        confidences = [ConfidenceMap("max") for _ in batch]

        def collect(rows: torch.Tensor, number: int) -> None:
            if probabilities:
                strips[number].append(rows)
            if confidence:
                confidences[number](rows)

        on_rows = [partial(collect, number=number) for number in range(len(batch))] if probabilities or confidence else None
        try:
            labels = segment_batch(self, normalize(images, info, layers.device), images, protocol, layers, on_rows)
        except ValueError as error:  # too small
            raise error if isinstance(error, DataError) else ValueError(f"{batch[0].name}: {error}") from error
        maps = labels.to(label_dtype(self.num_classes)).cpu().numpy()
        scores = [torch.cat(rows, 1).float().cpu().numpy() if probabilities else None for rows in strips]
        return [
            Prediction(image.pixels, label, info, image.path, score, highest.pixels() if confidence else None)
            for image, label, score, highest in zip(batch, maps, scores, confidences, strict=True)
        ]

    def checked_info(self) -> DatasetInfo:
        """Return ``info`` if it has the classes of the network.

        Raises:
            ConfigError: it has others.
        """
        assert self.info is not None
        if self.info.num_classes != self.num_classes:
            raise ConfigError(
                f"model.info has {self.info.num_classes} classes and the network {self.num_classes}: set model.info to the DatasetInfo of "
                "the data that it was trained on."
            )
        return self.info

    @property
    def has_logits(self) -> bool:
        """True if ``forward`` returns logits, which only files of labels do not."""
        return True

    def _layers(self) -> Precision:
        """Device and precision of the layers in torch.

        An exported file has none.
        """
        weight = next(self.parameters(), None)
        if weight is None or self.precision == "int8":
            return Precision("fp32", torch.device("cpu"))
        return Precision(self.precision, weight.device)
