"""Timing one can defend: it settles, knows how well it knows, compares labels, and says why a runtime cannot run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segzoo.config import check
from segzoo.engine import timing
from segzoo.engine.bench import bench
from segzoo.engine.bench_table import page, write_tables
from segzoo.engine.device import forget_peak, peak_memory
from segzoo.engine.roofline import roofline
from segzoo.engine.timing import Times, measure, median_interval, paired
from segzoo.export import Deployed
from segzoo.layers.context import ContextConv
from segzoo.layers.resize import resize
from segzoo.measured import measured_apart
from segzoo.registry import RUNTIMES, ConfigError
from segzoo.runtimes._base import Order, Unable
from segzoo.subject import subject
from segzoo.zoo import create_model

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def a_clock(monkeypatch, durations):
    """Replaces the clock by one on which the n-th call takes ``durations(n)`` seconds; returns the call."""
    now, calls = [0.0], count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def call():
        now[0] += durations(next(calls))

    return call


def test_warm_up_lasts_until_times_settle(monkeypatch):
    found = measure(a_clock(monkeypatch, lambda n: 5.0 if n < 7 else 1.0), CPU, seconds=1000, interval=0.03)
    assert found.warmup >= 14 and set(found.seconds) == {1.0}
    assert not found.doubts(0.03)


def test_measuring_ends_once_the_median_is_known(monkeypatch):
    steady = measure(a_clock(monkeypatch, lambda n: 1.0), CPU, seconds=1000, interval=0.03)
    wild = measure(a_clock(monkeypatch, lambda n: 1.0 + n % 7), CPU, seconds=1000, interval=0.03)
    assert len(steady.seconds) == 30 and 200 < len(wild.seconds) <= 1000
    assert "one call in ten" in " ".join(wild.doubts(0.03))


def test_time_that_runs_out_is_a_doubt(monkeypatch):
    found = measure(a_clock(monkeypatch, lambda n: 1.0 + n % 5), CPU, seconds=20, interval=0.01)
    assert len(found.seconds) >= 10
    assert "known to" in found.doubts(0.01)[0] and "seconds=" in found.doubts(0.01)[0]


def test_times_that_never_settled_are_a_doubt(monkeypatch):
    found = measure(a_clock(monkeypatch, lambda n: 6.0), CPU, seconds=20, interval=0.03)
    assert found.warmup == 3 and "3 calls before had not settled" in " ".join(found.doubts(0.03))


def test_pairs_do_not_feel_a_machine_that_slows_down(monkeypatch):
    now, calls = [0.0], count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def taking(seconds):
        def call():
            now[0] += seconds * (1 + next(calls) / 40)

        return call

    found = paired(taking(0.3), taking(0.5), CPU, seconds=1000, interval=0.02)
    assert found == pytest.approx(0.6, rel=0.02) and next(calls) < 100


def test_percentiles_are_order_statistics():
    times = Times([n / 1000 for n in range(100, 0, -1)], 0)
    assert times.percentiles() == {"p50": 50, "p90": 90, "p99": 99}
    assert times.percentiles(2)["p50"] == 25


def test_the_interval_of_the_median_covers_it():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        low, high = median_interval(list(rng.lognormal(0, 0.5, 40)))
        covered += low <= 1.0 <= high
    assert 0.93 <= covered / 400 <= 0.995


def test_roofline_is_positive():
    assert all(value > 0 for value in roofline(CPU, torch.float32).values())


def test_bench_counts_pictures_and_agreement():
    pictures = [np.full((40, 50, 3), value, np.uint8) for value in (0, 255)]
    truth = [np.zeros((40, 50), np.uint8), np.zeros((40, 50), np.uint8)]
    calls = []

    def call(batch):
        calls.append(tuple(batch.shape))
        return torch.stack([1 - batch[..., 0] / 255.0, batch[..., 0] / 255.0], 1)

    row = bench(call, lambda logits: logits.argmax(1), pictures, truth, CPU, 0.5, batch=3, seconds=0.05)
    assert set(calls) == {(3, 40, 50, 3)}
    assert row["agreement"] == 0.5
    assert row["ms_per_batch"]["p50"] == pytest.approx(3 * row["ms_per_image"]["p50"])
    assert row["images_per_s"] == pytest.approx(1000 / row["ms_per_image"]["p50"])
    assert row["share_of_peak"] == pytest.approx(2 * 0.5 * 3 / row["ms_per_batch"]["p50"] / row["peak"]["tflops"])


def test_end_to_end_decodes_the_same_pictures():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    seen = []

    def call(batch):
        seen.append(batch.numpy().copy())
        return batch.permute(0, 3, 1, 2).float()

    bench(call, lambda logits: logits.argmax(1), [image], [image[..., 0]], CPU, 1, scope="end_to_end", seconds=0.01)
    np.testing.assert_array_equal(seen[0][0], image)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(9, 14), (12, 6), (1, 1)])
@torch.no_grad()
def test_pooled_maps_convolve_before_they_grow(size, align_corners):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(7 + 2 * 3, 5, 3, padding=1)
    features, pooled = torch.randn(2, 7, *size), [torch.randn(2, 3, b, b) for b in (1, 4)]
    joined = torch.cat([features, *(resize(p, size, align_corners) for p in pooled)], 1)
    torch.testing.assert_close(ContextConv(conv, 7, align_corners)(features, pooled), conv(joined), rtol=1e-4, atol=1e-5)


def test_another_convolution_is_refused():
    with pytest.raises(ValueError, match="wanted a 3x3"):
        ContextConv(torch.nn.Conv2d(4, 4, 1), 2, False)


def order(precision: Any = "fp32", name="icnet"):
    torch.manual_seed(0)
    model = create_model(name, backbone={"name": "resnet50", "width": 0.125}, num_classes=5).eval()
    pictures = [np.random.default_rng(n).integers(0, 256, (64, 96, 3), dtype=np.uint8) for n in range(4)]
    deployed = Deployed(model, (120.0, 110.0, 100.0), (60.0, 58.0, 57.0), takes="uint8", gives="logits").eval()
    return Order(deployed, torch.from_numpy(pictures[0][None]), precision, pictures)


SLOW = {"torch_compile", "onnxruntime", "openvino"}
PRECISIONS = {
    "eager": ("fp32", "bf16", "fp16"),
    "torch_compile": ("fp32",),
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "int8"),
}
CASES = [
    pytest.param(name, precision, marks=[pytest.mark.slow] if name in SLOW or precision == "int8" else [])
    for name in RUNTIMES.names()
    for precision in PRECISIONS[name]
]


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_runtimes_give_the_networks_scores(name, precision):
    needs = {"onnxruntime": ["onnxscript", "onnxruntime"], "openvino": ["onnxscript", "openvino"]}.get(name, [])
    for package in [*needs, *(["nncf"] if name == "openvino" and precision == "int8" else [])]:
        pytest.importorskip(package, reason='pip install -e ".[export,openvino]"')
    given = order(precision)
    with torch.no_grad():
        wanted = given.deployed(given.example)[0]
    found = RUNTIMES.build(name, given)(given.example)
    assert found.dtype == torch.float32 and found.shape == wanted.shape
    error = (found - wanted).abs().mean() / wanted.abs().mean()
    assert error < {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.1, "int8": 0.3}[precision]


@pytest.mark.slow
def test_a_network_that_grows_nothing_is_quantised():
    for package in ("onnxscript", "openvino", "nncf"):
        pytest.importorskip(package, reason='pip install -e ".[export,openvino]"')
    assert RUNTIMES.build("openvino", order("int8", "fcn_dilated"))(torch.zeros(1, 64, 96, 3, dtype=torch.uint8)).shape[1] == 5


def test_a_precision_that_a_runtime_lacks_is_said():
    with pytest.raises(Unable, match="does not run in int8 here; it does in fp32"):
        RUNTIMES.build("eager", order("int8"))


def config(**words):
    base: dict[str, Any] = {
        "model": {"name": "icnet"},
        "backbone": {"name": "resnet50", "width": 0.125},
        "data": {"name": "parts", "height": 64, "width": 96},
        "runtime": {"name": "eager"},
    }
    return base | {"hw": [64, 96], "seconds": 0.1} | words


def test_nothing_to_measure_is_refused():
    with pytest.raises(ConfigError, match="say model=<name>"):
        subject(config(model=None))


def test_fresh_networks_have_settled_norms():
    first, again = (subject(config()["model"] and config(), classes=4) for _ in range(2))
    assert first.weights == again.weights and first.weights.startswith("random, seed 0")
    norms = [layer for layer in first.model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert all(not norm.training and (norm.running_var != 1).any() for norm in norms if norm.num_batches_tracked)
    assert sum(bool(norm.num_batches_tracked) for norm in norms) > 40


def test_words_are_checked():
    with pytest.raises(ConfigError) as error:
        check("bench", config(scope="everything", hw=[10, 20], batch=0))
    assert len(error.value.faults) == 3


def test_a_job_that_fails_keeps_its_name_and_its_error(monkeypatch):
    row = measured_apart(config(precision="fp32", batch=2, scope="net", seconds=0.1, interval=0.5, check=0))
    assert row["runtime"] == "eager" and row["batch"] == 2 and row["hw"] == [64, 96] and row["model"] == "icnet"
    assert "ZeroDivisionError" in row["unable"]


def test_graphs_are_refused_on_a_cpu():
    with pytest.raises(Unable, match="captured on CUDA alone"):
        RUNTIMES.build("torch_compile", order(), cuda_graphs=True)


def test_memory_is_of_what_ran_since_it_was_forgotten():
    forget_peak(CPU)
    before = peak_memory(CPU)
    np.ones(2**25)  # 256 MB, let go at once
    assert 200e6 < peak_memory(CPU) - before < 400e6
    forget_peak(CPU)
    assert peak_memory(CPU) - before < 100e6


@pytest.mark.slow
def test_int8_takes_batches():
    for package in ("onnxscript", "openvino", "nncf"):
        pytest.importorskip(package, reason='pip install -e ".[export,openvino]"')
    given = order("int8")
    pair = replace(given, example=given.example.repeat(2, 1, 1, 1))
    assert RUNTIMES.build("openvino", pair)(pair.example).shape[0] == 2


def test_a_page_shows_rows_that_failed_too(tmp_path):
    rows = [{"model": "a<b", "runtime": "eager", "unable": "needs | more"}]
    assert "needs \\| more" in write_tables(tmp_path, rows)
    assert json.loads((tmp_path / "bench.json").read_text()) == rows
    assert "a&lt;b" in page(rows) and "Titan X" in page(rows)


def test_what_all_rows_share_is_told_once(tmp_path):
    rows = [{"model": "icnet", "runtime": name, "hw": [64, 96], "batch": 1, "unable": "not here"} for name in ("eager", "openvino")]
    text = write_tables(tmp_path, rows)
    assert text.startswith("All rows: model icnet, size 64x96, batch 1.\n\n| runtime | remarks |\n")
    assert "All rows: model icnet" in page(rows) and "<th>runtime</th><th>remarks</th>" in page(rows)
    assert "| runtime | eager |" in write_tables(tmp_path, rows[:1])


@pytest.mark.slow
def test_the_tool_makes_one_table_over_runtimes(tmp_path):
    words = [
        "model=icnet_half",
        "backbone.width=0.125",
        "hw=[64,96]",
        "seconds=0.2",
        "runtime=eager,onnxruntime",
        "precision=fp32,fp16",
    ]
    done = subprocess.run(
        [sys.executable, "tools/bench.py", "-m", *words, f"hydra.sweep.dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["runtime"], row["precision"]) for row in rows] == [
        ("eager", "fp32"),
        ("eager", "fp16"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "fp16"),
    ]
    assert "does not run in fp16" in rows[3]["unable"]
    assert rows[0]["agreement"] > 0.999 and rows[0]["peak_memory_mb"] > 100 and rows[0]["machine"]["threads"] >= 1
