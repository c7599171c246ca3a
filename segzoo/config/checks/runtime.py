"""Runtimes of a prediction, without torch."""

from __future__ import annotations

from importlib.util import find_spec

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.types import PlainMapping

# packages and extras of the runtimes that export the network, the fastest one first
PACKAGES = {
    "openvino": (("openvino", "onnx", "onnxscript"), "export,openvino"),
    "onnxruntime": (("onnxruntime", "onnx", "onnxscript"), "export"),
}
WORTH_A_NOTE = 50  # images for which another runtime saves more time than it takes to export the network


def runtime_errors(config: PlainMapping) -> list[str]:
    """List the errors of the runtime of a prediction."""
    runtime = config.get("runtime") or {}
    name = runtime.get("name")
    if runtime.get("cuda_graphs"):
        return ["runtime=cuda_graphs is for images of one size, as tools/bench.py times them. Set runtime=torch_compile."]
    if name not in PACKAGES:
        return []
    errors, (packages, extras) = [], PACKAGES[name]
    if missing := [package for package in packages if find_spec(package) is None]:
        errors.append(f'runtime={name} needs {", ".join(missing)}: pip install "segzoo[{extras}]"')
    if config.get("device") == "cuda":
        errors.append(f"runtime={name} predicts on the CPU. Set device=cpu, or runtime=torch_compile.")
    return errors


def runtime_notes(config: PlainMapping, is_cuda: bool, total: int | None) -> list[str]:
    """Propose the fastest installed runtime for many images.

    Args:
        config: the settings of a prediction.
        is_cuda: whether the network is on a GPU.
        total: number of images, None if it is unknown.
    """
    is_eager = config["runtime"]["name"] == "eager" and not find_exported_file(config["ckpt"] or "")
    if not is_eager or (total is not None and total < WORTH_A_NOTE):
        return []
    if is_cuda:
        return ["runtime=torch_compile is usually faster on CUDA, after a minute of compilation."]
    installed = [name for name, (packages, _) in PACKAGES.items() if all(find_spec(package) for package in packages)]
    return [f"runtime={name} is installed and usually faster on a CPU." for name in installed[:1]]
