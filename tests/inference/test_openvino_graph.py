"""OpenVINO graphs of any shape, and their own for repeated ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from segzoo.inference.exported import openvino_graph
from segzoo.inference.exported.openvino_graph import OpenVinoGraph

openvino = pytest.importorskip("openvino", reason='pip install -e ".[openvino]"')


class CountingCore:
    """A core that remembers the input shapes of what it compiles."""

    def __init__(self):
        self.core, self.shapes = openvino.Core(), []

    def compile_model(self, graph, device, properties):
        self.shapes.append(str(graph.input(0).partial_shape))
        return self.core.compile_model(graph, device, properties)


@pytest.fixture
def graph():
    """A graph that doubles images of any size."""
    images = openvino.opset13.parameter([-1, -1, -1, 3], np.uint8)
    doubled = openvino.opset13.multiply(openvino.opset13.convert(images, "f32"), np.float32(2))
    return openvino.Model([doubled], [images])


def batch(height: int, images: int = 1) -> np.ndarray:
    return np.full((images, height, 4, 3), height, np.uint8)


def test_a_shape_that_repeats_gets_its_own_graph(graph, monkeypatch):
    monkeypatch.setattr(openvino_graph, "REPEATS", 3)
    core = CountingCore()
    call = OpenVinoGraph(core, graph, {"INFERENCE_PRECISION_HINT": "f32"})
    for height in (5, 6, 5, 6, 5, 5, 5, 6, 5):
        assert (call(batch(height))[0] == np.full((1, height, 4, 3), 2 * height)).all()
    assert core.shapes == ["[?,?,?,3]", "[1,5,4,3]"]
    for _ in range(3):
        call(batch(7, images=2))
    assert core.shapes[2:] == ["[2,7,4,3]"] and not call.runs_bf16
    kept = [variant.shape for variant in call._compiled]
    assert kept == [None, (2, 7, 4, 3)]


def test_threads_share_the_graphs(graph, monkeypatch):
    monkeypatch.setattr(openvino_graph, "REPEATS", 3)
    core, fixed = CountingCore(), []

    class Recorded(OpenVinoGraph):
        """A graph that records the shapes which it fixes."""

        @property
        def _fixed(self):
            return fixed[-1]

        @_fixed.setter
        def _fixed(self, shape):
            fixed.append(shape)

    call = Recorded(core, graph, {})
    with ThreadPoolExecutor(4) as pool:
        heights = [5] * 12 + [6] * 12 + [5, 6] * 4
        assert all(
            (output[0] == 2 * height).all() for height, output in zip(heights, pool.map(call, map(batch, heights)), strict=True)
        )
    for height in (5, 6):
        assert core.shapes.count(f"[1,{height},4,3]") <= fixed.count((1, height, 4, 3))
