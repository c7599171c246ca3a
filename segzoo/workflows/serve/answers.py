"""Answers to requests for labels: PNG, JSON and archives of them."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from fastapi import HTTPException

from segzoo.data.annotations.drafts import DraftImage, labelme_record
from segzoo.types import PlainDict
from segzoo.visualization.label_png import encode_label_png, encode_png
from segzoo.workflows.serve.batching import Timed

if TYPE_CHECKING:
    from segzoo.inference.prediction.result import Prediction

Output = Literal["labels", "overlay", "confidence", "polygons", "areas", "all"]
PNG, JSON, ZIP = "image/png", "application/json", "application/zip"
SUFFIXES = {PNG: ".png", JSON: ".json"}
# media range of the Accept header -> what is sent
ACCEPTED: dict[str, Output] = {
    PNG: "labels",
    "image/*": "labels",
    JSON: "areas",
    "application/*": "areas",
    "*/*": "areas",
}


class Options(NamedTuple):
    """Appearance of overlays and polygons.

    Attributes:
        alpha: opacity of the class colors in overlays, 0 to 1.
        hide: classes that stay clear in overlays. None hides the background.
        tolerance: how far a polygon may lie from the outline of its region, in pixels.
    """

    alpha: float
    hide: tuple[str, ...] | None
    tolerance: float


class Answer(NamedTuple):
    """Body and media type of a response."""

    content: bytes
    media_type: str


def accepted_output(accept: str) -> Output:
    """Choose what an Accept header asks for.

    Raises:
        HTTPException: 406, it accepts neither PNG nor JSON.
    """
    ranges = []
    for entry in (accept or "*/*").split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        ranges.append((kind, float(quality) if re.fullmatch(r"[0-9]+(\.[0-9]*)?", quality) else 0.0))
    for kind, quality in sorted(ranges, key=lambda entry: -entry[1]):
        if quality and kind in ACCEPTED:
            return ACCEPTED[kind]
    raise HTTPException(
        406, f"Accept: {accept[:80]} fits none of the answers. Accept {PNG} for labels or {JSON} for areas, or set ?output=."
    )


def encode(results: Sequence[Timed[Prediction]], names: Sequence[str], output: Output, model: str, options: Options) -> Answer:
    """Encode the predictions of a request.

    Areas and ``all`` are one JSON document. The others are files: the file itself for one image, otherwise a zip of ``0000.png`` or
    ``0000.json`` and so on, in the order of the images.

    Args:
        results: a ``Prediction`` for each image.
        names: names of the images for LabelMe files.
        output: the kind of answer.
        model: name of the model.
        options: see ``Options``.
    """
    if output in ("areas", "all"):
        describe = describe_areas if output == "areas" else describe_all
        document = {"model": model, "images": [describe(result) for result in results]}
        return Answer(json.dumps(document, allow_nan=False).encode(), JSON)
    files = [FILES[output](result.value, name, options) for result, name in zip(results, names, strict=True)]
    if len(files) == 1:
        return files[0]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for number, file in enumerate(files):
            archive.writestr(f"{number:04}{SUFFIXES[file.media_type]}", file.content)
    return Answer(buffer.getvalue(), ZIP)


def _labels(prediction: Prediction, name: str, options: Options) -> Answer:
    return Answer(encode_label_png(prediction.labels, prediction.info.palette), PNG)


def _overlay(prediction: Prediction, name: str, options: Options) -> Answer:
    buffer = io.BytesIO()
    prediction.overlay(alpha=options.alpha, hide=options.hide).save(buffer, "PNG", compress_level=1)
    return Answer(buffer.getvalue(), PNG)


def _confidence(prediction: Prediction, name: str, options: Options) -> Answer:
    assert prediction.confidence is not None
    return Answer(encode_png(prediction.confidence), PNG)


def _polygons(prediction: Prediction, name: str, options: Options) -> Answer:
    height, width = prediction.labels.shape
    record = labelme_record(DraftImage(name, (height, width), prediction.polygons(options.tolerance)))
    return Answer(json.dumps(record).encode(), JSON)


FILES: dict[str, Callable[..., Answer]] = {
    "labels": _labels,
    "overlay": _overlay,
    "confidence": _confidence,
    "polygons": _polygons,
}


def describe_areas(result: Timed[Prediction]) -> PlainDict:
    """Describe the areas of all classes and the regions of an image."""
    prediction = result.value
    height, width = prediction.labels.shape
    areas = {name: {"pixels": area.pixels, "share": round(area.share, 6)} for name, area in prediction.areas.items()}
    regions = [{"class": region.class_name, "box": list(region.box), "pixels": region.area} for region in prediction.regions]
    milliseconds = {"waited": round(1000 * result.waited, 2), "network": round(1000 * result.ran, 2), "batch": result.batch}
    return {"height": height, "width": width, "areas": areas, "regions": regions, "ms": milliseconds}


def describe_all(result: Timed[Prediction]) -> PlainDict:
    """Describe an image for the page, pixel by pixel.

    Adds class ids and confidence to the areas. Both are rows of bytes, deflated and in base64: browsers have no exact way to read a palette PNG. Above 255 classes, an id has two
    bytes, the lower first.
    """
    prediction, confidence = result.value, result.value.confidence
    ids = prediction.labels.astype("<u2" if prediction.info.num_classes > 255 else np.uint8)
    described = describe_areas(result) | {"labels": _packed(ids), "confidence": None}
    if confidence is None:
        return described
    counts = np.bincount(prediction.labels.ravel(), minlength=prediction.info.num_classes)
    sums = np.bincount(prediction.labels.ravel(), confidence.ravel(), minlength=prediction.info.num_classes)
    for k, area in enumerate(described["areas"].values()):
        area["confidence"] = round(float(sums[k] / counts[k] / 255), 4) if counts[k] else None
    return described | {"confidence": _packed(confidence), "mean_confidence": round(float(confidence.mean()) / 255, 4)}


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 1)).decode()
