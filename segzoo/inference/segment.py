"""Segmentation of single images.

Whole images or sliding windows, at one scale or averaged over several, with or without flipping.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from segzoo.device import Precision
from segzoo.inference.passes.forward_pass import ForwardPass, forward, size_of
from segzoo.inference.passes.logit_store import make_store
from segzoo.inference.passes.score_rows import Rows, assembled, flipped, softmax, stored, strips, summed
from segzoo.inference.protocol import InferenceProtocol
from segzoo.layers.resize import probability_strips, resize
from segzoo.layers.upsample_argmax import best_class, label_dtype, upsample_argmax
from segzoo.progress import with_progress
from segzoo.types import Logits

OnRows = Callable[[Tensor], None]  # takes the class probabilities (K, rows, W) of an image in strips, from top to bottom


@runtime_checkable
class LabelsImages(Protocol):
    """A network that labels images by itself, such as an exported file."""

    def follows(self, protocol: InferenceProtocol) -> bool:
        """True if its labels are those of the protocol."""
        ...

    def label_with_logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Label images, and return the logits if there are any.

        Shapes:
            (N, H, W, C) -> (N, H, W), (N, K, h, w) or None
        """
        ...


def labels_itself(model: nn.Module, protocol: InferenceProtocol) -> bool:
    """True if a network labels images as the protocol says."""
    return isinstance(model, LabelsImages) and model.follows(protocol)


@torch.no_grad()
def segment_image(
    model: nn.Module,
    x: Tensor,
    image: Tensor,
    protocol: InferenceProtocol,
    precision: Precision,
    on_rows: OnRows | None = None,
) -> Tensor:
    """Predict the class ids of one image.

    Scores are upsampled and reduced to labels in strips of rows, so a K x H x W tensor exists only if the protocol has a ``post`` or
    if the network itself returns one. Logits of many scales or windows wait in a temporary file, see ``LogitStore``.

    Args:
        model: the network.
        x: (1, C, H, W), the normalized image.
        image: (1, H, W, C), the original image, for the protocol's ``post``.
        protocol: windows, scales, flip and post-processing.
        precision: precision of the layers.
        on_rows: also gets the class probabilities of all rows. The network does not run again for them.

    Shapes:
        -> (1, *protocol.output_size((H, W)))
    """
    size = protocol.output_size(size_of(x))
    if protocol.single or labels_itself(model, protocol):
        return segment_batch(model, x, image, protocol, precision, on_rows and [on_rows])
    if protocol.post is not None:
        probabilities = predict_probabilities(model, x, protocol, precision)
        if on_rows:
            on_rows(probabilities[0])
        return protocol.post(image, probabilities)
    return _label_strips(_mean_scores(model, x, protocol, precision), _num_classes(model), size, protocol, x.device, on_rows)


def _label_strips(
    rows: Rows,
    num_classes: int,
    size: tuple[int, int],
    protocol: InferenceProtocol,
    device: torch.device,
    on_rows: OnRows | None,
) -> Tensor:
    """Label the rows of mean scores, strip by strip."""
    labels = torch.empty((1, *size), dtype=label_dtype(num_classes), device=device)
    bounds, needs_probabilities = strips(num_classes, size, device), bool(protocol.threshold or on_rows)
    for first, end in with_progress(bounds, len(bounds), "strips of rows", "segmenting"):
        scores = rows(first, end)
        probabilities = scores.softmax(0) if needs_probabilities and protocol.average == "logits" else scores
        labels[0, first:end] = protocol.threshold(probabilities) if protocol.threshold else best_class(scores)
        if on_rows:
            on_rows(probabilities)
    return labels


@torch.no_grad()
def segment_batch(
    model: nn.Module,
    x: Tensor,
    images: Tensor,
    protocol: InferenceProtocol,
    precision: Precision,
    on_rows: Sequence[OnRows] | None = None,
) -> Tensor:
    """Predict the class ids of images of one size.

    A single pass takes all images together, other protocols one after another.

    Args:
        model, protocol, precision: as in ``segment_image``.
        x: (N, C, H, W), the normalized images.
        images: (N, H, W, C), the original images.
        on_rows: as in ``segment_image``, one function per image.

    Shapes:
        -> (N, *protocol.output_size((H, W)))
    """
    size, take = size_of(x), on_rows or [None] * len(x)
    if not protocol.single and not labels_itself(model, protocol):
        one_by_one = zip(x.split(1), images.split(1), take, strict=True)
        return torch.cat([segment_image(model, each, image, protocol, precision, rows) for each, image, rows in one_by_one])
    if isinstance(model, LabelsImages) and model.follows(protocol):
        labels, logits = model.label_with_logits(images)
        for rows, main in zip(take, () if logits is None else logits.split(1), strict=logits is not None):
            if rows:
                _pass_rows(model, main, size, rows)
        return labels
    mains = forward(model, x, precision).main.split(1)
    return torch.cat([label_logits(model, Logits(main), size, rows) for main, rows in zip(mains, take, strict=True)])


def label_logits(model: nn.Module, logits: Logits, size: tuple[int, int], on_rows: OnRows | None = None) -> Tensor:
    """Upsample logits to ``size`` and take the argmax, in strips of rows.

    Args:
        model: the network, for its ``align_corners``.
        logits: its output.
        size: height and width of the labels.
        on_rows: see ``segment_image``.
    """
    if on_rows:
        _pass_rows(model, logits.main, size, on_rows)
    return upsample_argmax(logits.main, size, bool(model.align_corners))


def _pass_rows(model: nn.Module, logits: Tensor, size: tuple[int, int], on_rows: OnRows) -> None:
    for strip in probability_strips(logits, size, bool(model.align_corners)):
        on_rows(strip)


def predict_probabilities(model: nn.Module, x: Tensor, protocol: InferenceProtocol, precision: Precision) -> Tensor:
    """Average class probabilities over scales, flips and windows.

    Shapes:
        (1, C, H, W) -> (1, K, *protocol.output_size((H, W)))
    """
    rows = _mean_scores(model, x, protocol, precision)
    if protocol.average == "logits":
        rows = softmax(rows)
    return assembled(rows, _num_classes(model), protocol.output_size(size_of(x)), x.device)[None]


def _mean_scores(model: nn.Module, x: Tensor, protocol: InferenceProtocol, precision: Precision) -> Rows:
    """Average the scores of all passes, in rows of the output size.

    The network runs over whole images at once, and over windows when their rows are needed.
    """
    size, num_classes = protocol.output_size(size_of(x)), _num_classes(model)
    x = resize(x, protocol.input_hw, align_corners=False) if protocol.input_hw else x
    views = [x, x.flip(3)] if protocol.flip and protocol.average != "flip_logits" else [x]
    store = make_store(num_classes, size, x.device)
    settings = [(scale, mirrored) for scale in protocol.scales for mirrored in range(len(views))]
    passes: list[Rows] = []
    for scale, mirrored in with_progress(settings, len(settings), "passes", "segmenting"):
        network, view = ForwardPass(model, protocol, precision, size, scale, store), views[mirrored]
        rows = network.windows(stored(view[0]), size_of(view), view.device) if protocol.crop else network.whole_image(view)
        passes.append(flipped(rows) if mirrored else rows)
    return lambda first, end: summed(passes)(first, end) / len(passes)


def _num_classes(model: nn.Module) -> int:
    return int(model.num_classes)  # type: ignore[arg-type]
