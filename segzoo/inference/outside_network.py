"""Networks of other libraries, in the form that the evaluator expects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segzoo.registry import ConfigError
from segzoo.types import Logits


class OutsideNetwork(nn.Module):
    """A network that returns logits in any common form.

    Its input (N, 3, H, W) is RGB, normalized with the mean and std of the data. It may return logits (N, K, h, w), a ``dict`` with ``out``
    or ``logits`` as in torchvision, a tuple with the logits first, or an object with ``logits`` as in transformers. They are upsampled to
    the label's size, with the corners aligned if the network has a true ``align_corners``.

    Args:
        network: the network.
        num_classes: number of classes K.
    """

    def __init__(self, network: nn.Module, num_classes: int):
        super().__init__()
        self.network, self.num_classes = network, num_classes
        self.align_corners = bool(getattr(network, "align_corners", False))

    def forward(self, x: Tensor) -> Logits:
        """Return the logits of normalized images.

        Raises:
            ValueError: the network returns something else, or logits of another number of classes.
        """
        logits = _find_logits(self.network(x))
        if not isinstance(logits, Tensor) or logits.ndim != 4 or not logits.is_floating_point():
            found = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"the network returns {found}, expected logits (N, {self.num_classes}, h, w)")
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f"the network returns logits of {logits.shape[1]} classes, the data has {self.num_classes}. Map its classes to those of the "
                "data in the function that builds it"
            )
        return Logits(logits.float())


class OnnxNetwork(nn.Module):
    """An ONNX file of other code, run on the CPU.

    It has one input (N, 3, H, W), float. Its first output is logits (N, K, h, w), or labels (N, H, W) as integers.

    Args:
        path: the file.
        num_classes: number of classes K.

    Raises:
        ConfigError: the file cannot be loaded, or ONNX Runtime is not installed.
    """

    def __init__(self, path: Path, num_classes: int):
        super().__init__()
        try:
            import onnxruntime  # type: ignore[import-not-found]
        except ImportError as error:
            raise ConfigError(f'{path} needs {error.name}: pip install "segzoo[export]"') from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own
            raise ConfigError(f"{path} cannot be loaded: {_one_line(error)}") from error
        self.path, self.num_classes = path, num_classes

    @property
    def from_segzoo(self) -> bool:
        """True if tools/export.py wrote the file."""
        return "segzoo" in self.session.get_modelmeta().custom_metadata_map

    def forward(self, x: Tensor) -> Tensor:
        """Run the file on normalized images.

        Returns:
            Its logits. Labels become logits of 0 and 1.
        """
        try:
            output = np.asarray(self.session.run(None, {self.session.get_inputs()[0].name: x.float().cpu().numpy()})[0])
        except Exception as error:
            raise ValueError(f"{self.path} does not run on images {tuple(x.shape)}: {_one_line(error)}") from error
        result = torch.from_numpy(output)
        if result.is_floating_point():
            return result.to(x.device)
        labels = result.flatten(0, -3).long()  # (N, 1, H, W) or (N, H, W)
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(
                f"{self.path} returns labels {int(labels.min())} to {int(labels.max())}, expected 0 to {self.num_classes - 1}"
            )
        return F.one_hot(labels, self.num_classes).permute(0, 3, 1, 2).float().to(x.device)


def _find_logits(output: object) -> object:
    if isinstance(output, Mapping):
        return next((output[key] for key in ("out", "logits") if key in output), output)
    if isinstance(output, tuple | list) and output:
        return output[0]
    return getattr(output, "logits", output)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
