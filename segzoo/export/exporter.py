"""Export of trained networks, fused and checked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from segzoo.checkpoints.exported_files import file_checksums
from segzoo.device import RuntimePrecision
from segzoo.export.bundle import write_bundle
from segzoo.export.formats import ExportModel, InputFormat, OutputFormat, to_onnx, to_openvino, to_torch_export
from segzoo.export.parity import check_accuracy, check_parity, parity_images, spread_images, working_size
from segzoo.export.quantization import halve_onnx, quantize_onnx, quantize_openvino
from segzoo.inference.exported.network import ExportedNetwork, open_exported
from segzoo.inference.protocol import StripLabeler
from segzoo.messages import Example
from segzoo.registry import ConfigError, Range
from segzoo.types import DataError, Dataset, DatasetInfo, Images, PlainDict

if TYPE_CHECKING:
    from onnx import ModelProto

Size = Annotated[tuple[int, int], Range(33, 8192), Example([480, 640])]
Graph = TypeVar("Graph")
Format = Literal["onnx", "openvino", "torch_export"]
SUFFIXES = {"onnx": "onnx", "openvino": "xml", "torch_export": "pt2"}
PRECISIONS = {"onnx": ("fp32", "fp16", "int8"), "openvino": ("fp32", "fp16", "bf16", "int8"), "torch_export": ("fp32",)}
# icnet_half, trained for 150 steps on parts, reaches at least 0.9995 in fp16 and 0.996 in bf16; int8 is judged by its mIoU
MIN_AGREEMENT = {"fp32": 0.999, "fp16": 0.998, "bf16": 0.99, "int8": 0.0}


# of the bundle's self-test on another processor; int8 sums saturate on some and not on others
MIN_SELFTEST_AGREEMENT = {"fp32": 0.999, "fp16": 0.998, "int8": 0.95}


class LabeledImages(NamedTuple):
    """Images to calibrate int8 on, and labeled ones to judge it by."""

    calibration: Images
    validation: Dataset


def export_model(
    model: nn.Module,
    info: DatasetInfo,
    metadata: PlainDict,
    images: Images,
    folder: Path,
    labeled: LabeledImages | None = None,
    threshold: StripLabeler | None = None,
    *,
    format: Format = "onnx",
    precision: RuntimePrecision = "fp32",
    hw: Size | None = None,
    input: Literal["uint8", "float"] = "uint8",
    output: Literal["labels", "logits", "both"] = "labels",
    min_agreement: Annotated[float, Range(0, 1)] | None = None,
    calibration_images: Annotated[int, Range(1, 1000)] = 32,
    max_miou_drop: Annotated[float, Range(0, 1)] = 0.01,
    bundle: bool = False,
) -> PlainDict:
    """Export a model and keep the file only if its labels agree.

    Args:
        model: a ``SegModel`` in evaluation mode on the CPU, left unchanged. A copy fused for inference is exported.
        info: mean, std, classes and colors.
        metadata: further entries for the file's metadata, such as the checkpoint's checksum.
        images, labeled: images of the parity check, which compares the file with the network, and for int8 labeled ones.
        threshold: thresholds of class probabilities, which the file's labels follow. Its metadata records them, for files of logits too.
        folder: directory of ``model.<onnx|xml|pt2>``, and of ``mismatch.png`` if the check fails.
        format, precision: ``onnx``, ``openvino`` (an ``.xml`` with its ``.bin``) or ``torch_export``, in one of its ``PRECISIONS``.
        hw: fixed height and width in pixels, 33 or more. None makes batch, height and width dynamic.
        input: ``uint8`` (N, H, W, C), which is uint16 for images of 16 bits, or ``float`` (N, C, H, W) on the same scale.
        output: ``labels`` (N, H, W), ``logits`` at the network's own stride, or both.
        min_agreement: required fraction of equal labels in every image. None means that of ``MIN_AGREEMENT``.
        calibration_images, max_miou_drop: for int8, the number of images and the largest loss of mIoU, 0 to 1.
        bundle: also write ``bundle.zip``, which contains everything needed to run the file without torch and segzoo.

    Returns:
        ``file``, ``bytes`` (of both files for OpenVINO), ``sha256`` (of each), ``norms_merged`` (batch norm layers fused), ``precision``,
        ``threshold``, ``bundle``, ``parity``, the result of ``check_parity``, and for int8 ``accuracy``, the result of ``check_accuracy``.

    Raises:
        ParityError: if the labels or the mIoU differ too much. The file is deleted.
        ConfigError: if a package that the format needs is not installed, or the settings do not fit together.
    """
    check_request(format, precision, input, output, bundle, info.num_classes)
    exported, fused = _fuse(model, info, input, output, threshold)
    path, least = folder / f"model.{SUFFIXES[format]}", MIN_AGREEMENT[precision] if min_agreement is None else min_agreement
    result: PlainDict = {"file": str(path), "norms_merged": fused, "precision": precision}
    result["threshold"] = threshold.values if threshold else None
    metadata = metadata | interface_metadata(exported, info, hw, precision)
    calibration = _calibration(labeled, calibration_images, working_size(images, hw)) if precision == "int8" else []
    with _removed_on_failure(path, format) as files:
        _write(exported, path, metadata, format, precision, hw, calibration)
        network, crops = _open(path, metadata, precision), parity_images(images, hw)
        result["parity"] = check_parity(network, model, crops, info, folder, min_agreement=least)
        if labeled and precision == "int8":
            result["accuracy"] = check_accuracy(network, model, labeled.validation, info, max_miou_drop=max_miou_drop)
    result["bytes"], result["sha256"] = sum(file.stat().st_size for file in files if file.exists()), file_checksums(path)
    result["bundle"] = _bundle(network, path, metadata, crops, result) if bundle else None
    return result


def _fuse(
    model: nn.Module, info: DatasetInfo, input: str, output: OutputFormat, threshold: StripLabeler | None
) -> tuple[ExportModel, int]:
    """Copy and fuse a network, and count its batch norm layers."""
    taken: InputFormat = "float" if input == "float" else info.pixels.dtype
    exported = ExportModel(copy.deepcopy(model), info.mean, info.std, input=taken, output=output, threshold=threshold)
    count = exported.model.fuse_for_inference_()  # type: ignore[operator]
    return exported.eval(), count


def check_request(format: str, precision: str, input: str, output: str, bundle: bool, num_classes: int) -> None:
    """Raise ConfigError for a file that no format or bundle can hold."""
    if precision not in PRECISIONS[format]:
        able = [f"format={other}" for other, precisions in PRECISIONS.items() if precision in precisions]
        raise ConfigError(
            f"format={format} has no precision={precision}, only {', '.join(PRECISIONS[format])}. Set {' or '.join(able)} for it."
        )
    if bundle and (format, input, output) != ("onnx", "uint8", "labels"):
        raise ConfigError(f"bundle=true needs format=onnx input=uint8 output=labels, got {format}, {input}, {output}")
    if bundle and num_classes > 255:
        raise ConfigError(f"bundle=true supports up to 255 classes in its label images; this network has {num_classes}")


def _calibration(labeled: LabeledImages | None, count: int, hw: tuple[int, int]) -> list[np.ndarray]:
    """Take images to calibrate on, and require labeled ones.

    Raises:
        ConfigError: there are none.
    """
    needs = "precision=int8 is calibrated on the training images and judged by the mIoU of the labeled validation images"
    if labeled is None:
        raise ConfigError(f"{needs}: give them, or choose another precision")
    try:
        len(labeled.validation)  # finds the files
        return spread_images(labeled.calibration, count, hw)
    except DataError as error:
        raise ConfigError(f"{needs}. {error}") from error


def _bundle(network: ExportedNetwork, path: Path, metadata: PlainDict, crops: Sequence[np.ndarray], result: PlainDict) -> str:
    """Write the bundle of a checked file.

    Its self-test has the image with the most classes, then the largest, so that it could fail.
    """
    image = max(zip(result["parity"], crops, strict=True), key=lambda pair: (pair[0]["classes"], pair[1].size))[1]
    labels = network.label_images(torch.from_numpy(image[None]))[0].numpy()
    card = metadata | {key: result[key] for key in ("parity", "accuracy") if key in result}
    card["min_agreement"] = MIN_SELFTEST_AGREEMENT[network.precision]
    return str(write_bundle(path, network.info, card, metadata["hw"], image, labels))


def interface_metadata(exported: ExportModel, info: DatasetInfo, hw: tuple[int, int] | None, precision: str) -> PlainDict:
    """Collect the metadata that ``ExportedNetwork`` needs."""
    interface = {"input": exported.input, "output": exported.output, "hw": hw, "precision": precision}
    interface["threshold"] = exported.threshold.values if exported.threshold else None
    resampling = {
        "align_corners": bool(exported.model.align_corners),
        "corner_multiple": getattr(exported.model, "corner_multiple", None),
    }
    return interface | resampling | {"dataset": info.to_dict()}


def _write(
    exported: ExportModel,
    path: Path,
    metadata: PlainDict,
    format: Format,
    precision: RuntimePrecision,
    hw: tuple[int, int] | None,
    calibration: Sequence[np.ndarray],
) -> None:
    """Write the file in its format and precision."""
    if format == "torch_export":
        to_torch_export(exported, path, metadata, hw=hw)
    elif format == "openvino":
        convert = partial(quantize_openvino, model=exported, images=calibration) if precision == "int8" else _unchanged
        to_openvino(exported, path, metadata, hw=hw, convert=convert, fp16=precision == "fp16")
    else:
        conversions: dict[str, Callable[[ModelProto], ModelProto]] = {
            "fp32": _unchanged,
            "fp16": partial(halve_onnx, model=exported),
            "int8": partial(quantize_onnx, model=exported, images=calibration),
        }
        to_onnx(exported, path, metadata, hw=hw, convert=conversions[precision])


def _unchanged(graph: Graph) -> Graph:
    return graph


def _open(path: Path, metadata: PlainDict, precision: str) -> ExportedNetwork:
    """Open the file that was written.

    Raises:
        ConfigError: this processor runs it in another precision, so it cannot be checked.
    """
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()
        return ExportedNetwork(
            lambda batch: [each.detach().numpy() for each in program(torch.from_numpy(batch))], metadata, precision
        )
    network = open_exported(path)
    if network.precision != precision:
        raise ConfigError(
            f"precision={precision}: this processor runs it as {network.precision}, so the file cannot be checked here"
        )
    return network


@contextmanager
def _removed_on_failure(path: Path, format: str) -> Iterator[tuple[Path, Path]]:
    """Delete an exported file unless the block that checks it succeeds."""
    files = (path, path.with_suffix(".bin"))
    try:
        yield files
    except BaseException as error:
        for file in files:
            file.unlink(missing_ok=True)
        if isinstance(error, ImportError):
            extras = "export,openvino" if format == "openvino" else "export"
            raise ConfigError(f'format={format} needs {error.name}: pip install "segzoo[{extras}]"') from None
        raise
