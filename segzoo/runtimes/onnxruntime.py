"""ONNX Runtime on the CPU or on CUDA, in fp32 or int8."""

from __future__ import annotations

import importlib
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from segzoo.export.quantization import quantize_onnx
from segzoo.registry import RUNTIMES, Range
from segzoo.runtimes._base import InferenceFn, RuntimeRequest, RuntimeUnavailable, as_float32, onnx_file, supports_precisions


@RUNTIMES.register
@supports_precisions("fp32", "int8")
def onnxruntime(request: RuntimeRequest, *, calibration_images: Annotated[int, Range(1, 1000)] = 16) -> InferenceFn:
    """Run the exported network in ONNX Runtime.

    On CUDA, images and logits are copied through host memory.

    Args:
        request: the network and its conditions, in fp32 or int8 (static, per channel, with classifiers left in fp32).
        calibration_images: number of images for the activation ranges of int8.

    Raises:
        ImportError: if the packages of ``segzoo[export]`` are not installed.
        RuntimeUnavailable: for other precisions, and on CUDA if ONNX Runtime was built without it or cannot start on it.
    """
    ort = importlib.import_module("onnxruntime")  # the package, which type checkers confuse with this module

    provider = "CUDAExecutionProvider" if request.example.is_cuda else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise RuntimeUnavailable("onnxruntime was built without CUDA: pip install onnxruntime-gpu, or set device=cpu")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    with onnx_file(request) as path:
        if request.precision == "int8":
            onnx = importlib.import_module("onnx")
            onnx.save(quantize_onnx(onnx.load(path), request.model, request.calibration_images[:calibration_images]), path)
        settings = {"use_tf32": "0"} if request.example.is_cuda else {}  # else fp32 on CUDA would be TF32
        session = ort.InferenceSession(path, options, providers=[(provider, settings)])
    if provider not in session.get_providers():  # ONNX Runtime falls back to the CPU and only logs it
        raise RuntimeUnavailable("onnxruntime could not load its CUDA libraries: see its log, or set device=cpu")

    def run(images: Tensor) -> Tensor:
        return as_float32(np.asarray(session.run(None, {"image": images.cpu().numpy()})[0])).to(images.device)

    return run
