"""A trained network made ready for other programs: norms merged, exported, checked against itself, described."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from segzoo.export.bundle import write_bundle
from segzoo.export.formats import ExportModel, to_onnx, to_openvino, to_torch_export
from segzoo.export.parity import RunFn, check_parity, parity_images
from segzoo.layers.upsample_argmax import upsample_argmax
from segzoo.registry import ConfigError, Range
from segzoo.types import Dataset, DatasetInfo

Side = Annotated[int, Range(33, 8192)]


def export_model(
    model: Any,
    info: DatasetInfo,
    facts: dict[str, Any],
    dataset: Dataset,
    folder: Path,
    *,
    format: Literal["onnx", "openvino", "torch_export"] = "onnx",
    hw: tuple[Side, Side] | None = None,
    input: Literal["uint8", "float"] = "uint8",
    output: Literal["labels", "logits", "both"] = "labels",
    min_agreement: Annotated[float, Range(0, 1)] = 0.999,
    bundle: bool = False,
) -> dict[str, Any]:
    """Writes ``model.<onnx|xml|pt2>`` once it labels images of many sizes as the network does.

    Args:
        model: a ``SegModel`` in evaluation mode, on the CPU; it is left as it is. What is written is its lean copy.
        info: mean, std, classes and colors.
        facts: what else the file's metadata shall hold, such as the checkpoint's checksum.
        dataset: images for the check.
        folder: where the file goes, and ``where.png`` if the check fails.
        format: ``onnx``, ``openvino`` (an ``.xml`` with its ``.bin``) or ``torch_export`` (for ``torch.export.load``).
        hw: height and width the file is fixed to, 33 or more; None leaves batch and size free.
        takes: ``uint8`` (N, H, W, 3) or ``float`` (N, 3, H, W) of 0 to 255, RGB.
        gives: ``labels`` (N, H, W), ``logits`` at the network's own stride, or both.
        least: share of equal labels wanted of every image of the check.
        bundle: also write ``bundle.zip`` with all that is needed to run the file without torch and without this package.

    Returns:
        ``file``, ``bytes`` (OpenVINO: of both files), ``norms_merged``, ``bundle`` and ``gate``: what ``compare`` found of each image.

    Raises:
        ParityError: the file labels an image otherwise; it is not kept.
        ConfigError: a package that the format needs is not installed, or a bundle was asked for of something else than an ONNX file
            from bytes to labels, or of more than 255 classes.
    """
    if bundle and (format, input, output) != ("onnx", "uint8", "labels"):
        raise ConfigError(f"bundle=true needs format=onnx takes=uint8 gives=labels, got {format}, {input}, {output}")
    if bundle and info.num_classes > 255:
        raise ConfigError(f"bundle=true: its label images hold 255 classes at most, this network has {info.num_classes}")
    lean = copy.deepcopy(model)
    merged = lean.fuse_for_inference_()
    deployed = ExportModel(lean, info.mean, info.std, input=input, output=output).eval()
    ending, write, read = FORMATS[format]
    path = folder / f"model.{ending}"
    reference = ExportModel(model, info.mean, info.std, input="uint8", output="labels").eval()
    pictures = parity_images(dataset, hw)
    try:
        write(deployed, path, facts | {"dataset": info.to_dict()}, hw=hw)
        run = _onnx_labels(read(path), deployed)
        gate = check_parity(run, reference, pictures, info, folder, min_agreement=min_agreement)
    except BaseException as error:  # nothing stays that was not shown to agree
        for written in (path, path.with_suffix(".bin")):
            written.unlink(missing_ok=True)
        if isinstance(error, ImportError):
            raise ConfigError(f'format={format} needs {error.name}: pip install "segzoo[export,openvino]"') from None
        raise
    size = sum(part.stat().st_size for part in (path, path.with_suffix(".bin")) if part.exists())
    done = {"file": str(path), "bytes": size, "norms_merged": merged, "bundle": None, "parity": gate}
    if bundle:
        # the self-test shall have much to get wrong
        most = max(range(len(gate)), key=lambda i: (gate[i]["classes"], pictures[i].size))
        done["bundle"] = str(write_bundle(path, info, facts, hw, pictures[most], run(pictures[most][None])[0]))
    return done


def _onnx(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    import onnxruntime  # type: ignore[import-not-found]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: [np.asarray(output) for output in session.run(None, {"image": image})]


def _openvino(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    import openvino  # type: ignore[import-not-found]

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # bf16 elsewhere, where it is faster
    return lambda image: [np.asarray(output) for output in compiled(image).values()]


def _program(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    program = torch.export.load(path).module()
    return lambda image: [output.detach().numpy() for output in program(torch.from_numpy(image))]


FORMATS = {  # ending, writer, reader
    "onnx": ("onnx", to_onnx, _onnx),
    "openvino": ("xml", to_openvino, _openvino),
    "torch_export": ("pt2", to_torch_export, _program),
}


def _onnx_labels(call: Callable[[np.ndarray], list[np.ndarray]], deployed: ExportModel) -> RunFn:
    """The exported network as bytes in, labels out, whatever it takes and gives."""

    def run(image: np.ndarray) -> np.ndarray:
        given = image if deployed.input == "uint8" else image.transpose(0, 3, 1, 2).astype(np.float32)
        first = call(np.ascontiguousarray(given))[0]
        if deployed.output != "logits":
            return first
        return upsample_argmax(torch.from_numpy(first), image.shape[1:3], bool(deployed.model.align_corners)).numpy()

    return run
