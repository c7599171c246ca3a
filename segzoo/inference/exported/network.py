"""Networks in exported files, for evaluation and prediction on the CPU."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segzoo.checkpoints.schema import restore_integer_keys
from segzoo.inference.exported.openvino_graph import OpenVinoGraph
from segzoo.inference.prediction.segmenter import Segmenter
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.threshold import Threshold, make_threshold
from segzoo.layers.resize import probability_strips
from segzoo.layers.upsample_argmax import label_dtype, upsample_argmax
from segzoo.registry import ConfigError
from segzoo.types import DatasetInfo, Logits, PlainDict, PlainMapping

MIN_SIDE, MAX_SIDE = 64, 8192  # pixels of a file of any size; below 64, feature maps of stride 32 are one pixel wide
MAX_BYTES = 2**31  # of an ONNX file
KEYS = ("dataset", "input", "output", "hw", "precision", "align_corners")
# OpenVINO would choose bf16 for fp32 where that is faster. A CPU stores fp16 and computes in fp32, and leaves some layers of int8 in bf16.
OPENVINO_HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "bf16"}
CallFn = Callable[[np.ndarray], list[np.ndarray]]  # a batch of images in the file's input format -> all of its outputs


class ExportedNetwork(Segmenter):
    """The network of an exported file.

    It labels images as they are, since normalization is part of the file. If the file has logits, ``forward`` returns them, so that any
    inference protocol works.

    Args:
        call: runs the file.
        metadata: the file's metadata, with the keys ``KEYS``, and the ``threshold`` of its labels if it has one.
        precision: the precision that it runs in.
        divides_cores: as in ``Segmenter``.
        path: the file, from which a copy and another process open it again. None if it is gone.

    Raises:
        ConfigError: the thresholds do not fit the classes.
    """

    info: DatasetInfo

    def __init__(self, call: CallFn, metadata: PlainMapping, precision: str, divides_cores: bool = False, path: Path | None = None):
        super().__init__()
        self.call, self.metadata, self.path = call, metadata, path
        self.precision = precision  # type: ignore[assignment]
        self.info = DatasetInfo.from_dict(metadata["dataset"])
        self.num_classes, self.align_corners = self.info.num_classes, bool(metadata["align_corners"])
        self.corner_multiple = metadata.get("corner_multiple")
        self.outputs = {"both": ("labels", "logits")}.get(metadata["output"], (metadata["output"],))
        values = metadata.get("threshold")
        self.threshold = make_threshold(self.info, values) if values else None
        self.divides_cores = divides_cores
        self.eval()

    def __reduce__(self) -> tuple[Callable[..., ExportedNetwork], tuple[object, ...]]:
        if self.path is None or not self.path.exists():
            raise TypeError("this network cannot be copied: its file is gone. Export it with tools/export.py, and load that file.")
        return _reopen, (self.path, self.info, self.threshold)

    def extra_repr(self) -> str:
        return (
            f"{self.path or 'temporary file'}, {self.num_classes} classes, {self.precision}, returns {' and '.join(self.outputs)}"
        )

    @property
    def has_logits(self) -> bool:
        """True if the file returns logits."""
        return "logits" in self.outputs

    @property
    def returns_labels(self) -> bool:
        """True if the file returns labels."""
        return "labels" in self.outputs

    def follows(self, protocol: InferenceProtocol) -> bool:
        """True if ``label_images`` labels images as the protocol says."""
        return protocol.one_pass and protocol.threshold == self.threshold

    def label_images(self, images: Tensor) -> Tensor:
        """Label images of one size, in a single pass.

        The file's thresholds apply.

        Shapes:
            (N, H, W, C) uint8 or uint16 -> (N, H, W)
        """
        return self.label_with_logits(images)[0]

    def label_with_logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Label images as ``label_images``, and return the file's logits.

        Shapes:
            (N, H, W, C) uint8 or uint16 -> (N, H, W), (N, K, h, w) or None if the file has only labels
        """
        outputs = self.run(images)
        logits = outputs.get("logits")
        if "labels" in outputs:
            return outputs["labels"], logits
        return self._label_logits(outputs["logits"], images.shape[1:3]), logits

    def _label_logits(self, logits: Tensor, size: torch.Size) -> Tensor:
        """Label images from logits (N, K, h, w), in strips of rows."""
        if self.threshold is None:
            return upsample_argmax(logits, size, self.align_corners)
        labels = torch.empty((len(logits), *size), dtype=label_dtype(self.num_classes))
        for image, each in enumerate(logits.split(1)):
            first = 0
            for strip in probability_strips(each, size, self.align_corners):
                labels[image, first : first + strip.shape[1]] = self.threshold(strip)
                first += strip.shape[1]
        return labels

    def forward(self, x: Tensor) -> Logits:
        """Return the logits of normalized images (N, C, H, W).

        The normalization is reversed. A file that takes integers gets rounded pixels, which differ only where the images were resized.

        Raises:
            ConfigError: the file has only labels.
        """
        if not self.has_logits:
            raise ConfigError("the exported file returns only labels. Export it with output=both for its logits.")
        mean, std = (torch.tensor(values) for values in self.info.normalization)
        pixels = x.float().cpu().permute(0, 2, 3, 1) * std + mean
        if self.metadata["input"] != "float":
            pixels = pixels.round().clamp(0, self.info.pixels.largest).to(getattr(torch, self.info.pixels.dtype))
        return Logits(self.run(pixels)["logits"].to(x.device))

    def run(self, pixels: Tensor) -> dict[str, Tensor]:
        """Run the file on images (N, H, W, C).

        Returns:
            Its outputs by name, for pixels as they are stored.

        Raises:
            ValueError: the file does not take images of this size.
        """
        height, width = pixels.shape[1:3]
        hw = self.metadata["hw"]
        if hw and [height, width] != list(hw):
            raise ValueError(f"the image has {height}x{width} pixels, the exported file takes {hw[0]}x{hw[1]}")
        if not hw and min(height, width) < MIN_SIDE:
            raise ValueError(f"the image has {height}x{width} pixels, the exported file takes at least {MIN_SIDE}x{MIN_SIDE}")
        arrays = self.call(to_input_format(pixels.cpu().numpy(), self.metadata["input"]))
        return {name: torch.from_numpy(array) for name, array in zip(self.outputs, arrays, strict=True)}


def to_input_format(pixels: np.ndarray, input: str) -> np.ndarray:
    """Convert images (N, H, W, C) to what a file takes.

    Args:
        pixels: samples as they are stored.
        input: ``uint8`` or ``uint16`` for (N, H, W, C) integers, ``float`` for (N, C, H, W) float32.
    """
    return np.ascontiguousarray(pixels if input != "float" else pixels.transpose(0, 3, 1, 2).astype(np.float32))


def open_exported(path: Path) -> ExportedNetwork:
    """Open an exported file.

    Args:
        path: an ``.onnx`` or ``.xml`` file, or a bundle's ``.zip``.

    Raises:
        ConfigError: the file cannot be loaded, or segzoo did not export it.
        ImportError: the package that runs it is not installed.
    """
    try:
        call, text, precision = (_open_openvino if path.suffix.lower() == ".xml" else _open_onnx)(path)
    except ImportError:
        raise
    except Exception as error:  # each package raises classes of its own
        raise ConfigError(f"{path} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    metadata = parse_metadata(text)
    if missing := [key for key in KEYS if key not in metadata]:
        raise ConfigError(f"{path}: its metadata lacks {', '.join(missing)}. Export it with this version of tools/export.py.")
    try:
        divides_cores = path.suffix.lower() == ".xml"
        return ExportedNetwork(call, metadata, precision or metadata["precision"], divides_cores, path.absolute())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: its metadata is invalid: {error}. Export it again.") from None


def _reopen(path: Path, info: DatasetInfo, threshold: Threshold | None) -> ExportedNetwork:
    """Open the file of a network for its copy."""
    network = open_exported(path)
    network.info, network.threshold = info, threshold
    return network


def parse_metadata(text: str | None) -> PlainDict:
    """Parse the metadata of a file, empty if others wrote it."""
    try:
        metadata = json.loads(text or "{}", object_hook=restore_integer_keys)
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _open_onnx(path: Path) -> tuple[CallFn, str | None, str | None]:
    import onnxruntime  # type: ignore[import-not-found]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    model = _unzip_model(path) if path.suffix.lower() == ".zip" else str(path)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def call(batch: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(output) for output in session.run(None, {name: batch})]

    return call, session.get_modelmeta().custom_metadata_map.get("segzoo"), None


def _open_openvino(path: Path) -> tuple[CallFn, str | None, str | None]:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # disables telemetry
    import openvino  # type: ignore[import-not-found]

    core = openvino.Core()
    graph = core.read_model(path)
    text = str(graph.get_rt_info("segzoo").value) if graph.has_rt_info("segzoo") else None
    precision = parse_metadata(text).get("precision", "fp32")
    call = OpenVinoGraph(core, graph, {"INFERENCE_PRECISION_HINT": OPENVINO_HINTS.get(precision, "f32")})
    return call, text, "fp32" if precision == "bf16" and not call.runs_bf16 else None


def _unzip_model(path: Path) -> bytes:
    """Read the ONNX file of a bundle."""
    with zipfile.ZipFile(path) as archive:
        if (size := archive.getinfo("model.onnx").file_size) > MAX_BYTES:
            raise ValueError(f"model.onnx has {size} bytes, expected at most {MAX_BYTES}")
        return archive.read("model.onnx")
