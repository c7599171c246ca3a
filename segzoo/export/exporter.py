"""Export of trained networks, with batch norm fusion and parity check."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import nn

from segzoo.export.bundle import write_bundle
from segzoo.export.formats import ExportModel, to_onnx, to_openvino, to_torch_export
from segzoo.export.parity import RunFn, check_parity, parity_images
from segzoo.layers.upsample_argmax import upsample_argmax
from segzoo.registry import ConfigError, Range
from segzoo.types import DatasetInfo, Images, PlainDict

Side = Annotated[int, Range(33, 8192)]
CallFn = Callable[[np.ndarray], list[np.ndarray]]  # a batch of images -> all outputs of an exported file


def export_model(
    model: nn.Module,
    info: DatasetInfo,
    metadata: PlainDict,
    images: Images,
    folder: Path,
    *,
    format: Literal["onnx", "openvino", "torch_export"] = "onnx",
    hw: tuple[Side, Side] | None = None,
    input: Literal["uint8", "float"] = "uint8",
    output: Literal["labels", "logits", "both"] = "labels",
    min_agreement: Annotated[float, Range(0, 1)] = 0.999,
    bundle: bool = False,
) -> PlainDict:
    """Export a model and keep the file only if its labels agree.

    The file is ``model.<onnx|xml|pt2>``. The parity check compares it with the network on images of many sizes.

    Args:
        model: a ``SegModel`` in evaluation mode on the CPU, left unchanged. A copy fused for inference is exported.
        info: mean, std, classes and colors.
        metadata: further entries for the file's metadata, such as the checkpoint's checksum.
        images: images of the parity check.
        folder: output directory, also of ``mismatch.png`` if the check fails.
        format: ``onnx``, ``openvino`` (an ``.xml`` with its ``.bin``) or ``torch_export`` (for ``torch.export.load``).
        hw: fixed height and width in pixels, 33 or more. None makes batch, height and width dynamic.
        input: ``uint8`` (N, H, W, 3), or ``float`` (N, 3, H, W) in 0 to 255. Both are RGB.
        output: ``labels`` (N, H, W), ``logits`` at the network's own stride, or both.
        min_agreement: required fraction of equal labels in every image of the check.
        bundle: also write ``bundle.zip``, which contains everything needed to run the file without torch and segzoo.

    Returns:
        ``file``, ``bytes`` (of both files for OpenVINO), ``norms_merged`` (batch norm layers fused), ``bundle`` and ``parity``, the
        result of ``check_parity``.

    Raises:
        ParityError: if the labels of an image differ too much. The file is deleted.
        ConfigError: if a package that the format needs is not installed, or if a bundle is requested for anything but an ONNX file from
            bytes to labels of at most 255 classes.
    """
    if bundle:
        _check_bundle(format, input, output, info.num_classes)
    fused = copy.deepcopy(model)
    num_fused = fused.fuse_for_inference_()  # type: ignore[operator]
    exported = ExportModel(fused, info.mean, info.std, input=input, output=output).eval()
    suffix, write, load = FORMATS[format]
    path = folder / f"model.{suffix}"
    reference = ExportModel(model, info.mean, info.std, input="uint8", output="labels").eval()
    crops = parity_images(images, hw)
    with _removed_on_failure(path, format) as files:
        write(exported, path, metadata | {"dataset": info.to_dict()}, hw=hw)
        run = _labels_fn(load(path), exported)
        parity = check_parity(run, reference, crops, info, folder, min_agreement=min_agreement)
    size = sum(file.stat().st_size for file in files if file.exists())
    result = {"file": str(path), "bytes": size, "norms_merged": num_fused, "bundle": None, "parity": parity}
    if bundle:
        # the image with the most classes, then the largest: a self-test that could fail
        index = max(range(len(parity)), key=lambda i: (parity[i]["classes"], crops[i].size))
        result["bundle"] = str(write_bundle(path, info, metadata, hw, crops[index], run(crops[index][None])[0]))
    return result


def _check_bundle(format: str, input: str, output: str, num_classes: int) -> None:
    """Reject exports that the bundle's program cannot run."""
    if (format, input, output) != ("onnx", "uint8", "labels"):
        raise ConfigError(f"bundle=true needs format=onnx input=uint8 output=labels, got {format}, {input}, {output}")
    if num_classes > 255:
        raise ConfigError(f"bundle=true supports up to 255 classes in its label images; this network has {num_classes}")


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
            raise ConfigError(f'format={format} needs {error.name}: pip install "segzoo[export,openvino]"') from None
        raise


def _load_onnx(path: Path) -> CallFn:
    import onnxruntime  # type: ignore[import-not-found]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: [np.asarray(output) for output in session.run(None, {"image": image})]


def _load_openvino(path: Path) -> CallFn:
    import openvino  # type: ignore[import-not-found]

    # without the hint, OpenVINO picks bf16 where that is faster
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: [np.asarray(output) for output in compiled(image).values()]


def _load_torch_export(path: Path) -> CallFn:
    program = torch.export.load(path).module()
    return lambda image: [output.detach().numpy() for output in program(torch.from_numpy(image))]


FORMATS = {  # file suffix, writer, loader
    "onnx": ("onnx", to_onnx, _load_onnx),
    "openvino": ("xml", to_openvino, _load_openvino),
    "torch_export": ("pt2", to_torch_export, _load_torch_export),
}


def _labels_fn(call: CallFn, exported: ExportModel) -> RunFn:
    """Wrap an exported network, whatever its formats, as bytes to labels."""

    def run(images: np.ndarray) -> np.ndarray:
        batch = images if exported.input == "uint8" else images.transpose(0, 3, 1, 2).astype(np.float32)
        first = call(np.ascontiguousarray(batch))[0]
        if exported.output != "logits":
            return first
        return upsample_argmax(torch.from_numpy(first), images.shape[1:3], bool(exported.model.align_corners)).numpy()

    return run
