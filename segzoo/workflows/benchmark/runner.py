"""One row of a bench: what a configuration asks for is built in its runtime, measured, and described."""

from __future__ import annotations

import copy
import multiprocessing
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Annotated, Any

from segzoo.config.commands import arguments_for
from segzoo.config.sections import section_settings
from segzoo.device import DeviceName, pick_device
from segzoo.registry import RUNTIMES, ConfigError, Range
from segzoo.types import DataError
from segzoo.workflows.benchmark.workload import Workload, benchmark_images, build_workload

if TYPE_CHECKING:
    import numpy as np
    import torch

    from segzoo.export.formats import ExportModel
    from segzoo.models._base import SegModel
    from segzoo.runtimes._base import Call, RuntimeRequest
    from segzoo.types import DatasetInfo

EXTRAS = {"onnxruntime": "export", "openvino": "export,openvino"}
PACKAGES = ("onnx", "onnxruntime", "openvino", "nncf")
MAX_ERROR_LENGTH = 300  # characters of an error that a row shows


def run_benchmark(
    config: Mapping[str, Any],
    *,
    device: DeviceName = "auto",
    threads: Annotated[int, Range(1, None)] | None = None,
    num_check_images: Annotated[int, Range(1, None)] = 2,
) -> dict[str, Any]:
    """Builds what a configuration asks for, measures it, and says on what it was measured.

    Args:
        config: a whole, checked configuration of the bench.
        device: where it runs.
        threads: processor threads; null leaves torch's choice.
        check: images on which labels are compared with those of eager fp32.

    Returns:
        A row of ``bench.json``: what was measured and on what, ``build_s`` (seconds that conversion and compilation took), and what
        ``bench`` returns; with ``unable`` instead of times where the runtime cannot run it here.
    """
    import numpy as np
    import torch

    from segzoo.layers.upsample_argmax import upsample_argmax
    from segzoo.runs.environment import clocks_mhz, git_commit, machine, versions
    from segzoo.runtimes._base import RuntimeRequest, RuntimeUnavailable
    from segzoo.workflows.benchmark.measure import benchmark
    from segzoo.workflows.benchmark.model_summary import model_complexity

    torch.set_num_threads(threads or torch.get_num_threads())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # a row that says fp32 is of fp32
    place, words, size = pick_device(device), arguments_for(benchmark, config), arguments_for(benchmark_images, config)
    chosen = build_workload(config, **arguments_for(build_workload, config))
    calibrating = config["runtime"].get("calibration_images", 0) if words["precision"] == "int8" else 0
    pictures = benchmark_images(chosen.data, num_check_images + max(1, calibrating), **size)
    checked, seen = (
        pictures[:num_check_images],
        pictures[num_check_images:],
    )  # int8 takes its ranges from others than it is judged by
    truth = [chosen.model.predict(picture) for picture in checked]
    example = torch.from_numpy(np.stack([seen[0]] * words["batch"])).to(place)
    row = _identity(chosen, config, size) | {"device": place.type, "threads": torch.get_num_threads()}
    row |= {"versions": versions(*PACKAGES), "machine": machine() | {"clocks_mhz": clocks_mhz()}, "git": git_commit()}
    lean = inference_copy(chosen.model, chosen.info, place)
    done, order = model_complexity(lean.model, **size)["gmacs"], RuntimeRequest(lean, example, words["precision"], seen)
    row |= {"lean_gmacs": done, "norms_merged": _norms(chosen.model) - _norms(lean)}
    start = time.perf_counter()
    try:
        call = build_runtime(config["runtime"]["name"], order, **section_settings(config["runtime"]))
    except RuntimeUnavailable as error:
        return row | {"error": str(error)}
    built = time.perf_counter() - start
    align = bool(chosen.model.align_corners)
    found = benchmark(call, lambda logits: upsample_argmax(logits, size["hw"], align), checked, truth, place, done, **words)
    return row | found | {"build_s": built}


def run_in_subprocess(config: Mapping[str, Any]) -> dict[str, Any]:
    """``measured_row`` in a process of its own, so that no measurement finds what another left behind.

    Args:
        config: a whole, checked configuration of the bench.

    Returns:
        Its row; with ``unable`` where it failed or its process died.
    """
    spawned = multiprocessing.get_context("spawn")
    ours, theirs = spawned.Pipe(duplex=False)
    process = spawned.Process(target=_send_row, args=(dict(config), theirs))
    process.start()
    theirs.close()
    try:
        row = ours.recv()
    except EOFError:
        process.join()
        row = f"the process ended with code {process.exitcode} (-9: out of memory or killed, -11: a crash in the runtime)"
    process.join()
    if isinstance(row, BaseException):
        raise row
    return row if isinstance(row, dict) else _asked(config) | {"error": row}


def _send_row(config: dict[str, Any], answer: Connection) -> None:
    """The child's whole life: sends the row, the error that ends the tool, or in a sentence what went wrong in this row alone."""
    try:
        answer.send(run_benchmark(config, **arguments_for(run_benchmark, config)))
    except (ConfigError, DataError) as error:
        answer.send(error)
    except Exception as error:
        traceback.print_exc()
        answer.send(f"{type(error).__name__}: {' '.join(str(error).split())[:MAX_ERROR_LENGTH]}")


def inference_copy(model: SegModel, info: DatasetInfo, place: torch.device) -> ExportModel:
    """A copy of a network made lean, with normalization before it."""
    from segzoo.export.formats import ExportModel

    lean = copy.deepcopy(model)
    lean.fuse_for_inference_()
    return ExportModel(lean, info.mean, info.std, input="uint8", output="logits").eval().to(place)


def build_runtime(name: str, order: RuntimeRequest, **words: Any) -> Call:
    """What the runtime of that name makes of an order.

    Raises:
        RuntimeUnavailable: it cannot, or is not installed; then the message names the extra.
    """
    from segzoo.runtimes._base import RuntimeUnavailable

    try:
        return RUNTIMES.build(name, order, **words)
    except ImportError as error:
        help_ = f': pip install "segzoo[{EXTRAS[name]}]"' if name in EXTRAS else ""
        raise RuntimeUnavailable(f"{error}{help_}") from None


def make_segmenter(
    model: SegModel, info: DatasetInfo, runtime: str, precision: str, pictures: Sequence[np.ndarray], place: torch.device
) -> Callable[[], torch.Tensor]:
    """What labels the first of several images of one size, from bytes on the device to a label a pixel, in a runtime.

    Raises:
        RuntimeUnavailable: as ``runtime_call``.
    """
    import torch

    from segzoo.layers.upsample_argmax import upsample_argmax
    from segzoo.runtimes._base import RuntimeRequest

    example, align = torch.from_numpy(pictures[0][None]).to(place), bool(model.align_corners)
    call = build_runtime(runtime, RuntimeRequest(inference_copy(model, info, place), example, precision, pictures))  # type: ignore[arg-type]
    return lambda: upsample_argmax(call(example), example.shape[1:3], align)


def _identity(chosen: Workload, config: Mapping[str, Any], size: Mapping[str, Any]) -> dict[str, Any]:
    """What is measured: the keys of a row that name it."""
    from segzoo.workflows.benchmark.model_summary import model_complexity

    totals = model_complexity(chosen.model, **size)
    sizes = {"params": totals["params"], "gmacs": totals["gmacs"], "weights": chosen.weights, "data": chosen.data.info.name}
    return _asked(config) | {group: chosen.config[group]["name"] for group in ("model", "backbone")} | sizes


def _norms(network: torch.nn.Module) -> int:
    """How many batch norms a network still has."""
    import torch

    return sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a row is of, as far as the configuration alone says it."""
    named = {group: (config.get(group) or {}).get("name") for group in ("model", "backbone")}
    runtime = {"runtime": config["runtime"]["name"], "settings": section_settings(config["runtime"])}
    return (
        named | runtime | {"hw": list(config["hw"])} | {key: config.get(key) for key in ("precision", "device", "batch", "scope")}
    )
