"""Packages of runtimes and of exported files, without torch."""

from __future__ import annotations

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.resources import is_installed
from segzoo.types import PlainMapping

# packages and extras of the runtimes that export the network, the fastest one first
PACKAGES = {
    "openvino": (("openvino", "onnx", "onnxscript"), "export,openvino"),
    "onnxruntime": (("onnxruntime", "onnx", "onnxscript"), "export"),
}
FORMATS = {"onnx": "onnxruntime", "openvino": "openvino"}  # formats of files, and the runtimes that check them
WORTH_A_NOTE = 50  # images for which another runtime saves more time than it takes to export the network


def runtime_errors(config: PlainMapping) -> list[str]:
    """List the errors of the runtime of a prediction."""
    runtime = config.get("runtime") or {}
    name = runtime.get("name")
    if runtime.get("cuda_graphs"):
        return ["runtime=cuda_graphs is for images of one size, as tools/bench.py times them. Set runtime=torch_compile."]
    if name not in PACKAGES:
        return []
    errors = _package_errors(f"runtime={name}", name)
    if config.get("device") == "cuda":
        errors.append(f"runtime={name} predicts on the CPU. Set device=cpu, or runtime=torch_compile.")
    return errors


def export_errors(config: PlainMapping) -> list[str]:
    """List the packages that an export needs and lacks."""
    format = config.get("format")
    if format not in FORMATS:
        return []
    more = ("nncf",) if (format, config.get("precision")) == ("openvino", "int8") else ()
    return _package_errors(f"format={format}", FORMATS[format], more)


def _package_errors(setting: str, runtime: str, more: tuple[str, ...] = ()) -> list[str]:
    packages, extras = PACKAGES[runtime]
    missing = [package for package in (*packages, *more) if not is_installed(package)]
    return [f'{setting} needs {", ".join(missing)}: pip install "segzoo[{extras}]"'] if missing else []


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
    installed = [name for name, (packages, _) in PACKAGES.items() if all(map(is_installed, packages))]
    return [f"runtime={name} is installed and usually faster on a CPU." for name in installed[:1]]
