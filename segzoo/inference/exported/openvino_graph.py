"""OpenVINO graphs on the CPU, compiled for any and for repeated shapes."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import torch

from segzoo.types import PlainMapping

REPEATS = 100  # batches of one shape after which its own graph pays for the second that compiling it takes

Shape = tuple[int, ...]


class _Variant(NamedTuple):
    """Calls and shapes that a graph is compiled for."""

    streams: int  # calls at the same time, which share the cores
    shape: Shape | None  # of the batches, None for any


class OpenVinoGraph:
    """A graph on the CPU, called with batches of images.

    It is compiled for batches of any shape. A shape that comes ``REPEATS`` times in a row, as in a video, gets a graph of its own, which is
    faster and has the same outputs. One such graph is kept.

    Args:
        core: ``openvino.Core``.
        graph: the graph as it was read.
        properties: properties of the CPU plug-in.
    """

    def __init__(self, core: Any, graph: Any, properties: PlainMapping):
        self._core, self._graph, self._num_threads = core, graph, torch.get_num_threads()
        self._properties = {**properties, "INFERENCE_NUM_THREADS": self._num_threads}
        self._compiled: dict[_Variant, Any] = {}
        self._counting, self._compiling = threading.Lock(), threading.Lock()
        self._requests = threading.local()  # of each thread, since a request serves one at a time
        self._last: Shape | None = None
        self._repeats = 0
        self._fixed: Shape | None = None
        self._compile(_Variant(1, None))

    @property
    def runs_bf16(self) -> bool:
        """True if layers are computed in bf16."""
        return self._compile(_Variant(1, None))[1].get_property("INFERENCE_PRECISION_HINT").get_type_name() == "bf16"

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run a batch in the graph's input format and return all outputs."""
        variant = _Variant(max(1, self._num_threads // torch.get_num_threads()), self._fixed_shape(batch.shape))
        requests: dict[_Variant, Any] = vars(self._requests).setdefault("of_variant", {})
        if variant not in requests:
            variant, compiled = self._compile(variant)
            for other in [known for known in requests if known.shape not in (None, variant.shape)]:
                del requests[other]
            requests[variant] = compiled.create_infer_request()
        return [np.array(output) for output in requests[variant].infer(batch, share_inputs=True).values()]

    def _fixed_shape(self, shape: Shape) -> Shape | None:
        """Count a batch and return its shape if that is fixed."""
        with self._counting:
            self._repeats = self._repeats + 1 if shape == self._last else 1
            self._last = shape
            if self._repeats == REPEATS and self._graph.is_dynamic():
                self._fixed = shape
            return shape if shape == self._fixed else None

    def _compile(self, variant: _Variant) -> tuple[_Variant, Any]:
        """Compile the graph for a variant, once.

        Returns:
            The variant and its graph, of any shape if another thread has fixed another shape meanwhile.
        """
        with self._compiling:
            if variant.shape != self._fixed:
                variant = variant._replace(shape=None)
            if variant not in self._compiled:
                self._compiled = {key: graph for key, graph in self._compiled.items() if key.shape in (None, variant.shape)}
                graph, streams = self._graph, {"NUM_STREAMS": variant.streams} if variant.streams > 1 else {}
                if variant.shape is not None:
                    graph = graph.clone()
                    graph.reshape(list(variant.shape))
                self._compiled[variant] = self._core.compile_model(graph, "CPU", self._properties | streams)
            return variant, self._compiled[variant]
