"""Export to ONNX, OpenVINO and ``torch.export``.

An exported file takes images of any size as they are decoded and returns labels or logits. Normalization and upsampling are part of the graph, so
users need not reimplement them. Classes, palette, mean, std and the checksum of the weights are stored as JSON in the file's metadata,
under the key ``segzoo``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from segzoo.inference.exported.network import MAX_SIDE, MIN_SIDE
from segzoo.inference.protocol import StripLabeler
from segzoo.io import write_atomically
from segzoo.layers.normalize import normalize_rows_
from segzoo.layers.resize import resize
from segzoo.layers.upsample_argmax import label_dtype
from segzoo.types import PlainMapping

if TYPE_CHECKING:
    from onnx import ModelProto
    from openvino import Model

InputFormat = Literal["uint8", "uint16", "float"]
OutputFormat = Literal["labels", "logits", "both"]
IR_VERSION = 9  # of ONNX files: the oldest that can hold the graphs, read by onnxruntime 1.17 and newer


class ExportModel(nn.Module):
    """A network with its normalization and upsampling.

    Args:
        model: the network in evaluation mode, with ``align_corners``.
        mean, std: statistics that it was trained with, one value per channel on the scale of the samples.
        input: ``uint8`` and ``uint16`` take (N, H, W, C) samples as decoders return them; ``float`` takes (N, C, H, W) on the same scale.
        output: ``labels`` returns (N, H, W) uint8, or int32 above 255 classes; ``logits`` returns (N, K, h, w) float32 at the network's
            own stride; ``both`` returns labels, then logits.
        threshold: labels pixels by their class probabilities. None takes the argmax.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        input: InputFormat,
        output: OutputFormat,
        threshold: StripLabeler | None = None,
    ):
        super().__init__()
        self.model, self.input, self.output, self.threshold = model, input, output, threshold
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs of ``forward``, in order."""
        return ["labels", "logits"] if self.output == "both" else [self.output]

    def example(self, height: int, width: int) -> Tensor:
        """Create two random images in the input format of ``forward``."""
        generator = torch.Generator().manual_seed(0)  # leaves the random numbers of the caller alone
        images = torch.randint(0, 256, (2, height, width, len(self.mean)), generator=generator, dtype=torch.uint8)
        if self.input == "float":
            return images.permute(0, 3, 1, 2).float()
        return images if self.input == "uint8" else images.to(torch.uint16)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self._normalize(image)
        logits = self.model(x).main
        if self.output == "logits":
            return (logits,)
        upsampled = resize(logits, x.shape[-2:], align_corners=bool(self.model.align_corners))
        labels = self.threshold(upsampled.softmax(1), dim=1) if self.threshold else upsampled.argmax(1)
        labels = labels.to(label_dtype(logits.shape[1]))
        return (labels, logits) if self.output == "both" else (labels,)

    def _normalize(self, image: Tensor) -> Tensor:
        """Normalize images to (N, C, H, W) float32.

        ``layers.normalize.normalize`` is not used here, because it copies mean and std to the device in every call. A CUDA graph cannot
        capture that copy, and an exported graph needs them as buffers.
        """
        if self.input == "float":
            return (image - self.mean[:, None, None]) / self.std[:, None, None]
        if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            # out of place, as graphs are functional; contiguous, as other strides would add guards on the size to the graph
            return ((image.float() - self.mean) / self.std).permute(0, 3, 1, 2).contiguous()
        return normalize_rows_(image.float(), self.mean, self.std)


def to_onnx(
    model: ExportModel,
    path: Path,
    metadata: PlainMapping,
    *,
    hw: tuple[int, int] | None = None,
    convert: Callable[[ModelProto], ModelProto] = lambda proto: proto,
) -> None:
    """Write one ``.onnx`` file atomically.

    Args:
        model: the model to export, in evaluation mode.
        path: path of the file.
        metadata: JSON-able containers for the file's metadata.
        hw: fixed height and width in pixels. None makes batch, height and width dynamic.
        convert: converts the exported ``onnx.ModelProto`` to another precision.

    Raises:
        ImportError: if the packages of ``segzoo[export]`` are not installed.
    """
    import onnx  # type: ignore[import-not-found]

    height, width = hw or (160, 224)
    program = _export_program(model, height, width, fixed=hw is not None)
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter prints even with verbose=False
        onnx_program = torch.onnx.export(
            program, dynamo=True, external_data=False, input_names=["image"], output_names=model.outputs, verbose=False
        )
    assert onnx_program is not None
    proto = convert(onnx_program.model_proto)
    proto.ir_version = IR_VERSION
    entry = proto.metadata_props.add()
    entry.key, entry.value = "segzoo", json.dumps(dict(metadata))
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(path, lambda file: file.write(proto.SerializeToString()))


def to_openvino(
    model: ExportModel,
    path: Path,
    metadata: PlainMapping,
    *,
    hw: tuple[int, int] | None = None,
    convert: Callable[[Model], Model] = lambda graph: graph,
    fp16: bool = False,
) -> None:
    """Write the ``.xml`` and ``.bin`` files of an OpenVINO model.

    The other arguments are those of ``to_onnx``.

    Args:
        convert: converts the ``openvino.Model`` to another precision.
        fp16: store the weights in fp16 instead of fp32.

    Raises:
        ImportError: if the packages of ``segzoo[export,openvino]`` are not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # disables telemetry
    import openvino  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        onnx_path = Path(folder) / "net.onnx"
        to_onnx(model, onnx_path, metadata, hw=hw)
        graph = convert(openvino.Core().read_model(onnx_path))
        graph.set_rt_info(json.dumps(dict(metadata)), "segzoo")
        openvino.save_model(graph, Path(folder) / path.name, compress_to_fp16=fp16)
        for target in (path.with_suffix(".bin"), path):  # the .xml last, because it refers to the .bin
            os.replace(Path(folder) / target.name, target)


def to_torch_export(model: ExportModel, path: Path, metadata: PlainMapping, *, hw: tuple[int, int] | None = None) -> None:
    """Write a ``.pt2`` file for ``torch.export.load``.

    The arguments are those of ``to_onnx``.
    """
    height, width = hw or (160, 224)
    program = _export_program(model, height, width, fixed=hw is not None)
    extra = {"segzoo": json.dumps(dict(metadata))}
    write_atomically(path, lambda file: torch.export.save(program, file, extra_files=extra))


def _export_program(model: ExportModel, height: int, width: int, *, fixed: bool) -> torch.export.ExportedProgram:
    """Trace the network at one size.

    The batch dimension is always dynamic. Height and width are dynamic too, unless ``fixed``.
    """
    image = model.example(height, width)
    rows, columns = (2, 3) if model.input == "float" else (1, 2)
    limits = {"min": MIN_SIDE, "max": MAX_SIDE}
    dynamic = {
        0: torch.export.Dim("batch", min=1, max=64),
        rows: torch.export.Dim("height", **limits),
        columns: torch.export.Dim("width", **limits),
    }
    if fixed:
        dynamic = {0: torch.export.Dim("batch", min=1, max=64)}
    with torch.no_grad():
        return trace(model.eval(), image, {"image": dynamic})


def trace(
    network: nn.Module, example: Tensor, dynamic_shapes: dict[str, dict[int, torch.export.Dim]]
) -> torch.export.ExportedProgram:
    """Trace a network for a range of sizes.

    Some guards hold for every size but cannot be proven, such as those of pooling in ceil mode next to a strided convolution. They become
    assertions, and only labels at sizes that were never traced show whether they hold.

    Args:
        network: in evaluation mode.
        example: its only argument.
        dynamic_shapes: as for ``torch.export.export``.
    """
    from torch._dynamo.exc import UserError  # takes a second to import

    export = partial(torch.export.export, network, (example,), dynamic_shapes=dynamic_shapes)
    try:
        return export()
    except UserError as error:
        if "Constraints violated" not in str(error):
            raise
        return export(prefer_deferred_runtime_asserts_over_guards=True)
