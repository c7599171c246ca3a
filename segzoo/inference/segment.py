"""Segmentation of single images.

Whole images or sliding windows, at one scale or averaged over several, with or without flipping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from segzoo.device import Precision
from segzoo.inference.exported_network import ExportedNetwork
from segzoo.inference.passes.forward_pass import ForwardPass, forward, size_of
from segzoo.inference.passes.score_rows import Rows, assembled, flipped, softmax, stored, strips, summed
from segzoo.inference.protocol import InferenceProtocol
from segzoo.layers.resize import probability_strips, resize
from segzoo.layers.upsample_argmax import best_class, label_dtype, upsample_argmax
from segzoo.progress import with_progress
from segzoo.types import Logits

MAX_LOGITS = 2  # logits of whole images are kept up to this multiple of the scores at the image's size


Strips = Callable[[], Iterator[Tensor]]  # yields class probabilities (K, rows, W) of one image, from top to bottom


def segment_image(model: nn.Module, x: Tensor, image: Tensor, protocol: InferenceProtocol, precision: Precision) -> Tensor:
    """Predict the class ids of one image.

    Scores are upsampled and reduced to labels in strips of rows, so a K x H x W tensor exists only if the protocol has a ``post``, if
    the network itself returns one, or if logits of many scales would take more memory.

    Args:
        model: the network.
        x: (1, 3, H, W), the normalized image.
        image: (1, H, W, 3) uint8, the original image, for the protocol's ``post``.
        protocol: windows, scales, flip and post-processing.
        precision: precision of the layers.

    Shapes:
        -> (1, *protocol.output_size((H, W)))
    """
    return segment_with_probabilities(model, x, image, protocol, precision)[0]


@torch.no_grad()
def segment_with_probabilities(
    model: nn.Module, x: Tensor, image: Tensor, protocol: InferenceProtocol, precision: Precision
) -> tuple[Tensor, Strips]:
    """Predict the class ids of one image, and their probabilities on demand.

    Args:
        model, x, image, protocol, precision: as in ``segment_image``.

    Returns:
        What ``segment_image`` returns, and a function that computes the probabilities in strips of rows whenever it is called.
    """
    size = protocol.output_size(size_of(x))
    if protocol.single and isinstance(model, ExportedNetwork):
        return model.label_images(image), lambda: logit_strips(model, forward(model, x, precision), size)
    if protocol.single:
        logits = forward(model, x, precision)
        return logits_to_labels(model, logits, size), lambda: logit_strips(model, logits, size)
    if protocol.post is not None:
        probabilities = predict_probabilities(model, x, protocol, precision)
        return protocol.post(image, probabilities), lambda: iter(probabilities)
    num_classes = _num_classes(model)
    rows = _mean_scores(model, x, protocol, precision)
    labels = torch.empty((1, *size), dtype=label_dtype(num_classes), device=x.device)
    bounds = strips(num_classes, size)
    label = protocol.threshold or best_class
    rows = softmax(rows) if protocol.threshold and protocol.average == "logits" else rows
    for first, end in with_progress(bounds, len(bounds), "strips of rows", "segmenting"):
        labels[0, first:end] = label(rows(first, end))
    return labels, lambda: _probability_strips(model, x, protocol, precision, bounds)


@torch.no_grad()
def _probability_strips(
    model: nn.Module, x: Tensor, protocol: InferenceProtocol, precision: Precision, bounds: list[tuple[int, int]]
) -> Iterator[Tensor]:
    """Yield mean class probabilities in strips.

    The network runs again, since rows of windows can be read only once.
    """
    rows = _mean_scores(model, x, protocol, precision)
    rows = softmax(rows) if protocol.average == "logits" else rows
    for first, end in bounds:
        yield rows(first, end)


def logit_strips(model: nn.Module, logits: Logits, size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield class probabilities of one image from its logits, in strips."""
    return probability_strips(logits.main, size, bool(model.align_corners))


def logits_to_labels(model: nn.Module, logits: Logits, size: torch.Size | tuple[int, int]) -> Tensor:
    """Upsample logits to ``size`` and take the argmax, in strips of rows."""
    return upsample_argmax(logits.main, tuple(size), bool(model.align_corners))


def predict_probabilities(model: nn.Module, x: Tensor, protocol: InferenceProtocol, precision: Precision) -> Tensor:
    """Average class probabilities over scales, flips and windows.

    Shapes:
        (1, 3, H, W) -> (1, K, *protocol.output_size((H, W)))
    """
    rows = _mean_scores(model, x, protocol, precision)
    if protocol.average == "logits":
        rows = softmax(rows)
    return assembled(rows, _num_classes(model), protocol.output_size(size_of(x)), x.device)[None]


def _mean_scores(model: nn.Module, x: Tensor, protocol: InferenceProtocol, precision: Precision) -> Rows:
    """Average the scores of all passes, in rows of the output size.

    The logits of whole images are kept until their rows are needed, or added up if they would take more memory than that.
    """
    size, num_classes = protocol.output_size(size_of(x)), _num_classes(model)
    x = resize(x, protocol.input_hw, align_corners=False) if protocol.input_hw else x
    views = [x, x.flip(3)] if protocol.flip and protocol.average != "flip_logits" else [x]
    passes: list[Rows] = []
    total, kept = None, 0
    for scale in protocol.scales:
        network = ForwardPass(model, protocol, precision, size, scale)
        for mirrored, view in enumerate(views):
            rows, values = network.windows(view) if protocol.crop else network.whole_image(view)
            passes.append(flipped(rows) if mirrored else rows)
            kept += values
            if kept > MAX_LOGITS * num_classes * math.prod(size):
                added = assembled(summed(passes), num_classes, size, x.device)
                total, passes, kept = added if total is None else total.add_(added), [], 0
    parts, count = [*passes, *([] if total is None else [stored(total)])], len(protocol.scales) * len(views)
    return lambda first, end: summed(parts)(first, end) / count


def _num_classes(model: nn.Module) -> int:
    return int(model.num_classes)  # type: ignore[arg-type]
