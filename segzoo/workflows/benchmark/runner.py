"""One row of a bench: what a configuration asks for is built in its runtime, measured, and described."""

from __future__ import annotations

import copy
import multiprocessing
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Annotated, Any, Literal

from segzoo.config.commands import words_for
from segzoo.config.sections import settings
from segzoo.registry import RUNTIMES, ConfigError, Range
from segzoo.types import DataError
from segzoo.workflows.benchmark.workload import Subject, bench_pictures, subject

if TYPE_CHECKING:
    import numpy as np
    import torch

    from segzoo.export.formats import Deployed
    from segzoo.models._base import SegModel
    from segzoo.runtimes._base import Call, Order
    from segzoo.types import DataCard

EXTRAS = {"onnxruntime": "export", "openvino": "export,openvino"}
PACKAGES = ("onnx", "onnxruntime", "openvino", "nncf")
MOST = 300  # characters of an error that a row shows


def measured_row(
    config: Mapping[str, Any],
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: Annotated[int, Range(1, None)] | None = None,
    check: Annotated[int, Range(1, None)] = 2,
) -> dict[str, Any]:
    """Builds what a configuration asks for, measures it, and says on what it was measured.

    Args:
        config: a whole, checked configuration of the bench.
        device: where it runs.
        threads: processor threads; null leaves torch's choice.
        check: pictures on which labels are compared with those of eager fp32.

    Returns:
        A row of ``bench.json``: what was measured and on what, ``build_s`` (seconds that conversion and compilation took), and what
        ``bench`` returns; with ``unable`` instead of times where the runtime cannot run it here.
    """
    import numpy as np
    import torch

    from segzoo.device import pick_device
    from segzoo.layers.upsample_argmax import grow_labels
    from segzoo.runs.environment import clocks_mhz, git_commit, machine, versions
    from segzoo.runtimes._base import Order, Unable
    from segzoo.workflows.benchmark.measure import bench
    from segzoo.workflows.benchmark.model_summary import counted

    torch.set_num_threads(threads or torch.get_num_threads())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # a row that says fp32 is of fp32
    place, words, size = pick_device(device), words_for(bench, config), words_for(bench_pictures, config)
    chosen = subject(config, **words_for(subject, config))
    calibrating = config["runtime"].get("calibrate", 0) if words["precision"] == "int8" else 0
    pictures = bench_pictures(chosen.data, check + max(1, calibrating), **size)
    checked, seen = pictures[:check], pictures[check:]  # int8 takes its ranges from others than it is judged by
    truth = [chosen.model.predict(picture) for picture in checked]
    example = torch.from_numpy(np.stack([seen[0]] * words["batch"])).to(place)
    row = _identity(chosen, config, size) | {"device": place.type, "threads": torch.get_num_threads()}
    row |= {"versions": versions(*PACKAGES), "machine": machine() | {"clocks_mhz": clocks_mhz()}, "git": git_commit()}
    lean = lean_copy(chosen.model, chosen.card, place)
    done, order = counted(lean.model, **size)["gmacs"], Order(lean, example, words["precision"], seen)
    row |= {"lean_gmacs": done, "norms_merged": _norms(chosen.model) - _norms(lean)}
    start = time.perf_counter()
    try:
        call = runtime_call(config["runtime"]["name"], order, **settings(config["runtime"]))
    except Unable as error:
        return row | {"unable": str(error)}
    built = time.perf_counter() - start
    align = bool(chosen.model.align_corners)
    found = bench(call, lambda logits: grow_labels(logits, size["hw"], align), checked, truth, place, done, **words)
    return row | found | {"build_s": built}


def measured_apart(config: Mapping[str, Any]) -> dict[str, Any]:
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
    return row if isinstance(row, dict) else _asked(config) | {"unable": row}


def _send_row(config: dict[str, Any], answer: Connection) -> None:
    """The child's whole life: sends the row, the error that ends the tool, or in a sentence what went wrong in this row alone."""
    try:
        answer.send(measured_row(config, **words_for(measured_row, config)))
    except (ConfigError, DataError) as error:
        answer.send(error)
    except Exception as error:
        traceback.print_exc()
        answer.send(f"{type(error).__name__}: {' '.join(str(error).split())[:MOST]}")


def lean_copy(model: SegModel, card: DataCard, place: torch.device) -> Deployed:
    """A copy of a network made lean, with normalisation before it."""
    from segzoo.export.formats import Deployed

    lean = copy.deepcopy(model)
    lean.lean_()
    return Deployed(lean, card.mean, card.std, takes="uint8", gives="logits").eval().to(place)


def runtime_call(name: str, order: Order, **words: Any) -> Call:
    """What the runtime of that name makes of an order.

    Raises:
        Unable: it cannot, or is not installed; then the message names the extra.
    """
    from segzoo.runtimes._base import Unable

    try:
        return RUNTIMES.build(name, order, **words)
    except ImportError as error:
        help_ = f': pip install "segzoo[{EXTRAS[name]}]"' if name in EXTRAS else ""
        raise Unable(f"{error}{help_}") from None


def labeller(
    model: SegModel, card: DataCard, runtime: str, precision: str, pictures: Sequence[np.ndarray], place: torch.device
) -> Callable[[], torch.Tensor]:
    """What labels the first of several pictures of one size, from bytes on the device to a label a pixel, in a runtime.

    Raises:
        Unable: as ``runtime_call``.
    """
    import torch

    from segzoo.layers.upsample_argmax import grow_labels
    from segzoo.runtimes._base import Order

    example, align = torch.from_numpy(pictures[0][None]).to(place), bool(model.align_corners)
    call = runtime_call(runtime, Order(lean_copy(model, card, place), example, precision, pictures))  # type: ignore[arg-type]
    return lambda: grow_labels(call(example), example.shape[1:3], align)


def _identity(chosen: Subject, config: Mapping[str, Any], size: Mapping[str, Any]) -> dict[str, Any]:
    """What is measured: the keys of a row that name it."""
    from segzoo.workflows.benchmark.model_summary import counted

    totals = counted(chosen.model, **size)
    sizes = {"params": totals["params"], "gmacs": totals["gmacs"], "weights": chosen.weights, "data": chosen.data.card.name}
    return _asked(config) | {group: chosen.config[group]["name"] for group in ("model", "backbone")} | sizes


def _norms(network: torch.nn.Module) -> int:
    """How many batch norms a network still has."""
    import torch

    return sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a row is of, as far as the configuration alone says it."""
    named = {group: (config.get(group) or {}).get("name") for group in ("model", "backbone")}
    runtime = {"runtime": config["runtime"]["name"], "settings": settings(config["runtime"])}
    return (
        named | runtime | {"hw": list(config["hw"])} | {key: config.get(key) for key in ("precision", "device", "batch", "scope")}
    )
