"""Run one benchmark configuration and return its row of the results."""

from __future__ import annotations

import copy
import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Annotated, NamedTuple

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.config.commands import arguments_for
from segzoo.config.sections import section_settings
from segzoo.device import DeviceName, RuntimePrecision, pick_device
from segzoo.registry import RUNTIMES, ConfigError, Range
from segzoo.runtimes import EXTRAS
from segzoo.types import DataError, PlainDict, PlainMapping
from segzoo.workflows.benchmark.exported import benchmark_exported
from segzoo.workflows.benchmark.workload import Workload, benchmark_images, build_workload

if TYPE_CHECKING:
    import numpy as np
    import torch

    from segzoo.export.formats import ExportModel
    from segzoo.models._base import SegModel
    from segzoo.runtimes._base import InferenceFn, RuntimeRequest
    from segzoo.types import DatasetInfo

PACKAGES = ("onnx", "onnxruntime", "openvino", "nncf")
MAX_ERROR_LENGTH = 300  # characters of an error in a row


def run_benchmark(
    config: PlainMapping,
    *,
    device: DeviceName = "auto",
    threads: Annotated[int, Range(1, 1024)] | None = None,
    num_check_images: Annotated[int, Range(1, 1000)] = 2,
) -> PlainDict:
    """Build the configured network and runtime and benchmark them.

    Args:
        config: a complete, validated configuration of the bench tool.
        device: device of the network.
        threads: number of CPU threads. Null keeps torch's default.
        num_check_images: number of images whose labels are compared with eager fp32.

    Returns:
        A row of ``bench.json``. It has the configuration, the network, the machine, ``build_s`` (seconds for conversion and compilation)
        and the result of ``benchmark``, or an ``error`` in place of times if the runtime is unavailable.
    """
    import numpy as np
    import torch

    from segzoo.layers.upsample_argmax import upsample_argmax
    from segzoo.runs.environment import clocks_mhz, git_commit, machine, versions
    from segzoo.runtimes._base import RuntimeRequest, RuntimeUnavailable
    from segzoo.workflows.benchmark.measure import benchmark
    from segzoo.workflows.benchmark.model_summary import model_complexity

    torch.set_num_threads(threads or torch.get_num_threads())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 must not silently mean TF32
    torch_device = pick_device(device)
    options, image_size = arguments_for(benchmark, config), arguments_for(benchmark_images, config)
    facts = machine(gpu=torch_device.type == "cuda") | {"clocks_mhz": clocks_mhz()}
    environment = {"versions": versions(*PACKAGES), "machine": facts, "git": git_commit()}
    if file := config.get("ckpt") and find_exported_file(config["ckpt"]):
        return environment | benchmark_exported(config, file, num_check_images, options)
    workload = build_workload(config, **arguments_for(build_workload, config))
    num_calibration = config["runtime"].get("calibration_images", 0) if options["precision"] == "int8" else 0
    images = benchmark_images(workload.images, num_check_images + max(1, num_calibration), **image_size)
    # int8 is calibrated on other images than it is checked on
    check_images, calibration_images = images[:num_check_images], images[num_check_images:]
    expected = [workload.model.predict(image).labels for image in check_images]
    example = torch.from_numpy(np.stack([calibration_images[0]] * options["batch"])).to(torch_device)
    row = environment | _identity(workload, config, image_size)
    row |= {"device": torch_device.type, "threads": torch.get_num_threads()}
    fused = inference_copy(workload.model, workload.info, torch_device)
    gmacs = model_complexity(fused.model, **image_size)["gmacs"]
    row |= {"lean_gmacs": gmacs, "norms_merged": _num_batch_norms(workload.model) - _num_batch_norms(fused)}
    request = RuntimeRequest(fused, example, options["precision"], calibration_images)
    start = time.perf_counter()
    try:
        infer = build_runtime(config["runtime"]["name"], request, **section_settings(config["runtime"]))
    except RuntimeUnavailable as error:
        return row | {"error": str(error)}
    build_seconds = time.perf_counter() - start
    to_labels = partial(upsample_argmax, size=image_size["hw"], align_corners=bool(workload.model.align_corners))
    result = benchmark(infer, to_labels, check_images, expected, torch_device, gmacs, **options)
    return row | result | {"build_s": build_seconds}


def run_in_subprocess(config: PlainMapping) -> PlainDict:
    """Run ``run_benchmark`` in a fresh process, isolated from earlier runs.

    Args:
        config: a complete, validated configuration of the bench tool.

    Returns:
        The row of the benchmark, with an ``error`` if it failed or its process died.

    Raises:
        ConfigError, DataError: as ``run_benchmark``. They abort the tool.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_outcome, args=(dict(config), sender))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        process.join()
        message = f"the process ended with code {process.exitcode} (-9: out of memory or killed, -11: a crash in the runtime)"
        outcome = _Outcome(_requested(config) | {"error": message}, None)
    process.join()
    if outcome.user_error is not None:
        raise outcome.user_error
    return outcome.row


class _Outcome(NamedTuple):
    """Message of the subprocess: a row, or an error for the user."""

    row: PlainDict
    user_error: ConfigError | DataError | None


def _send_outcome(config: PlainDict, connection: Connection) -> None:
    """Run the benchmark in the child process and send its outcome."""
    try:
        outcome = _Outcome(run_benchmark(config, **arguments_for(run_benchmark, config)), None)
    except (ConfigError, DataError) as error:
        outcome = _Outcome({}, error)
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:MAX_ERROR_LENGTH]}"
        outcome = _Outcome(_requested(config) | {"error": message}, None)
    connection.send(outcome)


def inference_copy(model: SegModel, info: DatasetInfo, device: torch.device) -> ExportModel:
    """Copy a network, fuse it for inference and add normalization."""
    from segzoo.export.formats import ExportModel

    fused = copy.deepcopy(model)
    fused.fuse_for_inference_()
    return ExportModel(fused, info.mean, info.std, input=info.pixels.dtype, output="logits").eval().to(device)


def build_runtime(name: str, request: RuntimeRequest, **settings: object) -> InferenceFn:
    """Build the inference function of a runtime.

    Raises:
        RuntimeUnavailable: if the runtime cannot fulfill the request or is not installed. The message names the missing extra.
    """
    from segzoo.runtimes._base import RuntimeUnavailable

    try:
        return RUNTIMES.build(name, request, **settings)
    except ImportError as error:
        hint = f': pip install "segzoo[{EXTRAS[name]}]"' if name in EXTRAS else ""
        raise RuntimeUnavailable(f"{error}{hint}") from None


def make_segmenter(
    model: SegModel,
    info: DatasetInfo,
    runtime: str,
    precision: RuntimePrecision,
    images: Sequence[np.ndarray],
    device: torch.device,
) -> Callable[[], torch.Tensor]:
    """Build a function that segments the first image in a runtime.

    It starts from bytes on the device and returns one label per pixel. The images have one size, and int8 is calibrated on them.

    Raises:
        RuntimeUnavailable: as ``build_runtime``.
    """
    import torch

    from segzoo.layers.upsample_argmax import upsample_argmax
    from segzoo.runtimes._base import RuntimeRequest

    example, align_corners = torch.from_numpy(images[0][None]).to(device), bool(model.align_corners)
    infer = build_runtime(runtime, RuntimeRequest(inference_copy(model, info, device), example, precision, images))
    return lambda: upsample_argmax(infer(example), example.shape[1:3], align_corners)


def _identity(workload: Workload, config: PlainMapping, image_size: PlainMapping) -> PlainDict:
    """Collect the keys of a row that identify the configuration and network."""
    from segzoo.workflows.benchmark.model_summary import model_complexity

    totals = model_complexity(workload.model, **image_size)
    network = {"params": totals["params"], "gmacs": totals["gmacs"], "weights": workload.weights, "data": workload.images_title}
    return _requested(config) | {group: workload.config[group]["name"] for group in ("model", "backbone")} | network


def _num_batch_norms(model: torch.nn.Module) -> int:
    """Count the batch norm layers."""
    import torch

    return sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules())


def _requested(config: PlainMapping) -> PlainDict:
    """Collect the keys of a row that follow from the configuration alone."""
    names = {group: (config.get(group) or {}).get("name") for group in ("model", "backbone")}
    runtime = {"runtime": config["runtime"]["name"], "settings": section_settings(config["runtime"])}
    return (
        names | runtime | {"hw": list(config["hw"])} | {key: config.get(key) for key in ("precision", "device", "batch", "scope")}
    )
