"""A trained network as one file that other programs run: bytes of an image in, labels or scores out, sizes free.

Normalization and the growing of scores are inside, so that nobody has to repeat them. What the file needs to be understood (classes,
palette, mean, std, checksum of the weights) travels in its metadata under the key ``segzoo``, as JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segzoo.io import write_atomically
from segzoo.layers.resize import resize

InputFormat = Literal["uint8", "float"]
OutputFormat = Literal["labels", "logits", "both"]
SMALLEST, LARGEST = 64, 8192  # pixels a side that an exported network with free sizes takes: below, maps at 1/32 are one pixel


class ExportModel(nn.Module):
    """A network with what stands before and behind it.

    Args:
        model: in evaluation mode, with ``align_corners``.
        mean, std: RGB statistics on the 0..255 scale that it was trained with.
        takes: ``uint8``: (N, H, W, 3) bytes as decoders give them; ``float``: (N, 3, H, W) of 0 to 255. RGB either way.
        gives: ``labels``: (N, H, W) uint8, int32 above 255 classes; ``logits``: (N, K, h, w) float32 at the network's own stride; ``both``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], *, input: InputFormat, output: OutputFormat
    ):
        super().__init__()
        self.model, self.input, self.output = model, input, output
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    @property
    def classes(self) -> int:
        """Number of classes scored."""
        return self.model.num_classes  # type: ignore[return-value]

    @property
    def outputs(self) -> list[str]:
        """Names of what ``forward`` gives, in order."""
        return ["labels", "logits"] if self.output == "both" else [self.output]

    def example(self, height: int, width: int) -> Tensor:
        """A batch of two images of noise, as ``forward`` takes it."""
        pictures = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
        return pictures if self.input == "uint8" else pictures.permute(0, 3, 1, 2).float()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self._normalize(image)
        logits = self.model(x).main
        if self.output == "logits":
            return (logits,)
        grown = resize(logits, x.shape[-2:], align_corners=bool(self.model.align_corners))
        labels = grown.argmax(1).to(torch.uint8 if logits.shape[1] <= 255 else torch.int32)
        return (labels, logits) if self.output == "both" else (labels,)

    def _normalize(self, image: Tensor) -> Tensor:
        """The images (N, 3, H, W) as the network takes them; bytes are normalized as they lie in memory."""
        if self.input == "float":
            return (image - self.mean[:, None, None]) / self.std[:, None, None]
        if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            # contiguous: strides of another order would put conditions on the size into the graph
            return ((image.float() - self.mean) / self.std).permute(0, 3, 1, 2).contiguous()
        x, width = image.float(), image.shape[2]
        x.flatten(2).sub_(self.mean.repeat(width)).div_(self.std.repeat(width))  # whole rows: axes of three go pixel by pixel
        return x.permute(0, 3, 1, 2)


def to_onnx(deployed: ExportModel, path: Path, facts: Mapping[str, Any], *, hw: tuple[int, int] | None = None) -> None:
    """Writes one ``.onnx`` file, all of it or nothing.

    Args:
        deployed: in evaluation mode.
        path: where it goes.
        facts: plain JSON-able containers for the metadata.
        hw: height and width that the file is fixed to; None leaves batch and size free.

    Raises:
        ImportError: the packages of ``segzoo[export]`` are not installed.
    """
    import onnx  # type: ignore[import-not-found]

    height, width = hw or (160, 224)
    program = _program(deployed, height, width, fixed=hw is not None)
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter talks
        made = torch.onnx.export(
            program, dynamo=True, external_data=False, input_names=["image"], output_names=deployed.outputs, verbose=False
        )
    assert made is not None
    graph = made.model_proto
    entry = graph.metadata_props.add()
    entry.key, entry.value = "segzoo", json.dumps(dict(facts))
    onnx.checker.check_model(graph, full_check=True)
    write_atomically(path, lambda file: file.write(graph.SerializeToString()))


def to_openvino(deployed: ExportModel, path: Path, facts: Mapping[str, Any], *, hw: tuple[int, int] | None = None) -> None:
    """Writes an ``.xml`` file for OpenVINO and its ``.bin`` beside it, weights in fp32; arguments as in ``to_onnx``.

    Raises:
        ImportError: the packages of ``segzoo[export,openvino]`` are not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would call home
    import openvino  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / "net.onnx"
        to_onnx(deployed, draft, facts, hw=hw)
        graph = openvino.Core().read_model(draft)
        graph.set_rt_info(json.dumps(dict(facts)), "segzoo")
        openvino.save_model(graph, Path(folder) / path.name, compress_to_fp16=False)
        for part in (path.with_suffix(".bin"), path):  # the one that names the other comes last
            os.replace(Path(folder) / part.name, part)


def to_torch_export(deployed: ExportModel, path: Path, facts: Mapping[str, Any], *, hw: tuple[int, int] | None = None) -> None:
    """Writes a ``.pt2`` file for ``torch.export.load``; arguments as in ``to_onnx``."""
    height, width = hw or (160, 224)
    program = _program(deployed, height, width, fixed=hw is not None)
    extra = {"segzoo": json.dumps(dict(facts))}
    write_atomically(path, lambda file: torch.export.save(program, file, extra_files=extra))


def _program(deployed: ExportModel, height: int, width: int, *, fixed: bool) -> torch.export.ExportedProgram:
    """The graph of the network, traced at one size and free in batch, height and width unless fixed."""
    image = deployed.example(height, width)
    rows, columns = (1, 2) if deployed.input == "uint8" else (2, 3)
    side = {"min": SMALLEST, "max": LARGEST}
    free = {
        0: torch.export.Dim("batch", min=1, max=64),
        rows: torch.export.Dim("height", **side),
        columns: torch.export.Dim("width", **side),
    }
    if fixed:
        free = {0: torch.export.Dim("batch", min=1, max=64)}
    with torch.no_grad():
        return torch.export.export(deployed.eval(), (image,), dynamic_shapes={"image": free})
