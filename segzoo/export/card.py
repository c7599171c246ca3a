"""Description of an exported network for programs without segzoo."""

from __future__ import annotations

from pathlib import Path

from segzoo.inference.exported.network import MAX_SIDE, MIN_SIDE
from segzoo.types import DatasetInfo, PlainDict

MIN_ONNXRUNTIME = "1.17"


def describe_interface(model: Path, info: DatasetInfo, hw: tuple[int, int] | None) -> PlainDict:
    """Describe the inputs and outputs of a bundle's network.

    Args:
        model: the ``.onnx`` file, (N, H, W, C) integers -> labels.
        info: classes and colors.
        hw: fixed input size, None if it takes any.

    Returns:
        The ``format`` with its ``opset``, ``input``, ``output`` and ``labels``, with texts where names do not say it all.
    """
    import onnx  # type: ignore[import-not-found]

    proto = onnx.load(model)
    (image,), (labels,) = proto.graph.input, proto.graph.output
    size = {"height": hw[0], "width": hw[1]} if hw else {"min_side": MIN_SIDE, "max_side": MAX_SIDE, "multiple_of": 1}
    return {
        "format": {
            "name": "ONNX",
            "ir_version": proto.ir_version,
            "opset": {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
            "onnxruntime": f"{MIN_ONNXRUNTIME} or newer",
        },
        "input": {
            "name": image.name,
            "dtype": _dtype(image),
            "layout": "NHWC",
            "shape": _shape(image),
            "size": size,
            "channels": "RGB" if info.pixels.channels == 3 else info.pixels.channels,
            "values": f"0 to {info.pixels.largest}, upright, as decoded. The file itself subtracts mean and divides by std: do not normalize",
        },
        "output": {
            "name": labels.name,
            "dtype": _dtype(labels),
            "layout": "NHW",
            "shape": _shape(labels),
            "values": "index into classes and palette of each pixel, at the size of the image. Thresholds are applied already",
        },
        "labels": {
            "count": info.num_classes,
            "ignore": f"{info.ignore} marks unlabeled pixels of the ground truth. The network never returns it",
            "threshold": "class -> probability from which it is predicted. null is the most probable class",
        },
    }


def _dtype(value) -> str:
    import onnx  # type: ignore[import-not-found]

    return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _shape(value) -> list[int | str]:
    """Sizes of the dimensions, with names for those that vary."""
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
