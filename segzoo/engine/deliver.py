"""A trained network made ready for other programs: norms merged, exported, checked against itself, described."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import nn

from segzoo.engine.gate import Run, compare, pictures_of
from segzoo.export import Deployed, to_onnx, to_torch_export
from segzoo.layers.fold import fold_norms_
from segzoo.layers.resize import grow_labels
from segzoo.registry import ConfigError, Range
from segzoo.types import DataCard, Dataset

Side = Annotated[int, Range(33, 8192)]


def deliver(
    model: nn.Module,
    card: DataCard,
    facts: dict[str, Any],
    dataset: Dataset,
    folder: Path,
    *,
    format: Literal["onnx", "torch_export"] = "onnx",
    hw: tuple[Side, Side] | None = None,
    takes: Literal["uint8", "float"] = "uint8",
    gives: Literal["labels", "logits", "both"] = "labels",
    least: Annotated[float, Range(0, 1)] = 0.999,
) -> dict[str, Any]:
    """Writes ``model.<onnx|pt2>`` once it labels pictures of many sizes as the network does.

    Args:
        model: in evaluation mode, on the CPU; it is left as it is.
        card: mean, std, classes and colours.
        facts: what else the file's metadata shall hold, such as the checkpoint's checksum.
        dataset: pictures for the check.
        folder: where the file goes, and ``where.png`` if the check fails.
        format: ``onnx`` or ``torch_export`` (for ``torch.export.load``).
        hw: height and width the file is fixed to, 33 or more; None leaves batch and size free.
        takes: ``uint8`` (N, H, W, 3) or ``float`` (N, 3, H, W) of 0 to 255, RGB.
        gives: ``labels`` (N, H, W), ``logits`` at the network's own stride, or both.
        least: share of equal labels wanted of every picture of the check.

    Returns:
        ``file``, ``bytes``, ``norms_merged`` and ``gate``: size and agreement of each picture.

    Raises:
        GateError: the file labels a picture otherwise; it is not kept.
        ConfigError: a package that the format needs is not installed.
    """
    lean = copy.deepcopy(model)
    merged = fold_norms_(lean)
    deployed = Deployed(lean, card.mean, card.std, takes=takes, gives=gives).eval()
    ending, write, read = FORMATS[format]
    path = folder / f"model.{ending}"
    reference = Deployed(model, card.mean, card.std, takes="uint8", gives="labels").eval()
    try:
        write(deployed, path, facts | {"card": card.to_dict()}, hw=hw)
        gate = compare(_labels(read(path), deployed), reference, pictures_of(dataset, hw), card, folder, least=least)
    except BaseException as error:  # nothing stays that was not shown to agree
        path.unlink(missing_ok=True)
        if isinstance(error, ImportError):
            raise ConfigError(f'format={format} needs {error.name}: pip install "segzoo[export]"') from None
        raise
    return {"file": str(path), "bytes": path.stat().st_size, "norms_merged": merged, "gate": gate}


def _onnx(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    import onnxruntime  # type: ignore[import-not-found]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: [np.asarray(output) for output in session.run(None, {"image": image})]


def _program(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    program = torch.export.load(path).module()
    return lambda image: [output.detach().numpy() for output in program(torch.from_numpy(image))]


FORMATS = {"onnx": ("onnx", to_onnx, _onnx), "torch_export": ("pt2", to_torch_export, _program)}  # ending, writer, reader


def _labels(call: Callable[[np.ndarray], list[np.ndarray]], deployed: Deployed) -> Run:
    """The exported network as bytes in, labels out, whatever it takes and gives."""

    def run(image: np.ndarray) -> np.ndarray:
        given = image if deployed.takes == "uint8" else image.transpose(0, 3, 1, 2).astype(np.float32)
        first = call(np.ascontiguousarray(given))[0]
        if deployed.gives != "logits":
            return first
        return grow_labels(torch.from_numpy(first), image.shape[1:3], bool(deployed.model.align_corners)).numpy()

    return run
