"""Benchmarks: measurement, agreement on held-out images, and result tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segzoo.cli.app import Job
from segzoo.config.validate import validate
from segzoo.models._base import SegModel
from segzoo.registry import RUNTIMES, ConfigError
from segzoo.runtimes._base import RuntimeUnavailable
from segzoo.workflows.benchmark.measure import benchmark
from segzoo.workflows.benchmark.report import page, write_tables
from segzoo.workflows.benchmark.runner import run_benchmark, run_in_subprocess
from segzoo.workflows.benchmark.workload import benchmark_images, build_workload
from tools.bench import announce
from tools.bench import bench as bench_tool

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _known_peak(monkeypatch):
    """Replace the roofline, which takes seconds to measure and is tested in test_timing."""
    monkeypatch.setattr("segzoo.workflows.benchmark.measure.roofline", lambda device, dtype: {"tflops": 0.5, "gb_per_s": 10.0})


def test_a_single_label_gives_a_warning():
    image = np.zeros((40, 50, 3), np.uint8)
    row = benchmark(
        lambda x: x.permute(0, 3, 1, 2).float(), lambda x: x.argmax(1), [image], [image[..., 0]], CPU, 1, max_seconds=0.01
    )
    assert row["agreement"] == 1 and "as class 0: agreement says nothing" in " ".join(row["warnings"])


def test_every_position_of_a_batch_is_compared():
    images = [np.full((40, 50, 3), value, np.uint8) for value in (0, 1, 2)]
    expected = [image[..., 0] for image in images]

    def first_correct(batch):
        labels = batch[..., 0].clone()
        labels[1:] = 9
        return labels

    row = benchmark(first_correct, lambda x: x, images, expected, CPU, 1, batch=2, max_seconds=0.01)
    assert row["agreement"] == 0.5


def test_throughput_and_agreement_count_images():
    images = [np.full((40, 50, 3), value, np.uint8) for value in (0, 255)]
    expected = [np.zeros((40, 50), np.uint8), np.zeros((40, 50), np.uint8)]
    calls = []

    def infer(batch):
        calls.append(tuple(batch.shape))
        return torch.stack([1 - batch[..., 0] / 255.0, batch[..., 0] / 255.0], 1)

    row = benchmark(infer, lambda logits: logits.argmax(1), images, expected, CPU, 0.5, batch=3, max_seconds=0.05)
    assert set(calls) == {(3, 40, 50, 3)}
    assert row["agreement"] == 0.5
    assert row["ms_per_batch"]["p50"] == pytest.approx(3 * row["ms_per_image"]["p50"])
    assert row["images_per_s"] == pytest.approx(1000 / row["ms_per_image"]["p50"])
    assert row["share_of_peak"] == pytest.approx(2 * 0.5 * 3 / row["ms_per_batch"]["p50"] / row["peak"]["tflops"])


def test_end_to_end_decodes_the_same_images():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    batches = []

    def infer(batch):
        batches.append(batch.numpy().copy())
        return batch.permute(0, 3, 1, 2).float()

    benchmark(infer, lambda logits: logits.argmax(1), [image], [image[..., 0]], CPU, 1, scope="end_to_end", max_seconds=0.01)
    np.testing.assert_array_equal(batches[0][0], image)


def config(**options):
    base: dict[str, Any] = {
        "model": {"name": "icnet"},
        "backbone": {"name": "resnet50", "width": 0.125},
        "data": {"name": "parts", "height": 64, "width": 96},
        "runtime": {"name": "eager"},
    }
    return base | {"hw": [64, 96], "max_seconds": 0.1} | options


def test_nothing_to_benchmark_is_rejected():
    with pytest.raises(ConfigError, match="set model=<name>"):
        build_workload(config(model=None))


def test_random_networks_have_batch_norm_statistics():
    first, again = (build_workload(config()["model"] and config(), num_classes=4) for _ in range(2))
    assert first.weights == again.weights and first.weights.startswith("random, seed 0")
    batch_norms = [layer for layer in first.model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert all(not bn.training and (bn.running_var != 1).any() for bn in batch_norms if bn.num_batches_tracked)
    assert sum(bool(bn.num_batches_tracked) for bn in batch_norms) > 40


def test_random_networks_predict_several_classes():
    """FCN's classifiers start at zero, so every runtime would agree on class 0."""
    for name in ("fcn", "icnet"):
        workload = build_workload(config(model={"name": name}), num_classes=4)
        assert len(np.unique(workload.model.predict(workload.images.image(0)).labels)) > 1


def test_any_images_are_benchmarked_without_the_data_set(tmp_path):
    from PIL import Image

    Image.new("RGB", (80, 70), (9, 8, 7)).save(tmp_path / "x.png")
    data = {"name": "folder", "root": "nowhere", "classes": ["a", "b"], "mean": [120.0] * 3, "std": [60.0] * 3}
    workload = build_workload(config(data=data), images=str(tmp_path), num_classes=2)
    assert workload.images_title == str(tmp_path) and workload.info.classes == ("a", "b")
    (image,) = benchmark_images(workload.images, 1, hw=(64, 96))
    assert image.shape == (64, 96, 3) and (image == (9, 8, 7)).all()


def test_a_used_folder_is_rejected_before_anything_is_measured(tmp_path, monkeypatch):
    (tmp_path / "bench.json").write_text("{}")
    monkeypatch.setattr("segzoo.workflows.benchmark.runner.run_in_subprocess", lambda config: pytest.fail("it was measured"))
    with pytest.raises(ConfigError, match="already holds results"):
        bench_tool(Job("bench", config(out=str(tmp_path)), {}, {"model": "icnet", "runtime": "eager"}))


def test_what_is_measured_is_named(tmp_path, monkeypatch, capsys):
    rows = iter([{"error": "no"}, {"error": "no", "file": "x", "runtime": "openvino"}])
    monkeypatch.setattr("segzoo.workflows.benchmark.runner.run_in_subprocess", lambda config: next(rows))
    (tmp_path / "model.xml").touch()
    choices: dict[str, Any] = {"model": None, "runtime": "eager"}
    for ckpt, expected, runtime in (
        ("runs/first", "runs/first in eager, fp32", "eager"),
        (str(tmp_path), str(tmp_path), "openvino"),
    ):
        settings = {"ckpt": ckpt, "runtime": {"name": "eager"}, "precision": "fp32", "max_seconds": 20.0}
        row = bench_tool(Job("bench", settings, {}, choices, tmp_path))["row"]
        assert f"measuring {expected}: starting" in capsys.readouterr().out and row["runtime"] == runtime


@pytest.mark.parametrize(("outcome", "code"), [({"error": "int8 not supported here"}, 1), ({"ms_per_image": {"p50": 1.0}}, 0)])
def test_a_job_without_a_time_fails(tmp_path, monkeypatch, outcome, code):
    monkeypatch.setattr("segzoo.workflows.benchmark.runner.run_in_subprocess", lambda config: outcome)
    monkeypatch.setattr("segzoo.workflows.benchmark.report.write_tables", lambda folder, rows: "")
    settings = config(out=str(tmp_path / "out"), precision="int8", max_seconds=1.0)
    job = Job("bench", settings, {}, {"model": "icnet", "runtime": "eager"})
    assert bench_tool(job)["exit_code"] == code


def test_a_sweep_says_how_long_it_takes():
    assert announce([{"max_seconds": 20.0}] * 6) == "6 jobs, which take about 2 to 8 minutes"


def test_int8_is_checked_on_images_it_was_not_calibrated_on(monkeypatch):
    requests, checked = [], []

    def build(name, request, **settings):
        requests.append(request)
        raise RuntimeUnavailable("enough")

    monkeypatch.setattr(RUNTIMES, "build", build)

    def predict(model, image):
        checked.append(image)
        return SimpleNamespace(labels=None)

    monkeypatch.setattr(SegModel, "predict", predict)
    runtime = {"name": "onnxruntime", "calibration_images": 3}
    row = run_benchmark(config(runtime=runtime, precision="int8", batch=1, scope="net", ci_half_width=0.5), num_check_images=2)
    calibration_images = requests[0].calibration_images
    assert row["error"] == "enough" and len(checked) == 2 and len(calibration_images) == 3
    assert not any(np.array_equal(one, other) for one in checked for other in calibration_images)


def test_settings_are_validated():
    with pytest.raises(ConfigError) as error:
        validate("bench", config(scope="everything", hw=[10, 20], batch=0))
    assert len(error.value.errors) == 3


@pytest.mark.integration
def test_a_failed_job_keeps_its_name_and_its_error(monkeypatch):
    row = run_in_subprocess(config(precision="fp32", batch=2, scope="net", ci_half_width=0.5, num_check_images=0))
    assert row["runtime"] == "eager" and row["batch"] == 2 and row["hw"] == [64, 96] and row["model"] == "icnet"
    assert "ZeroDivisionError" in row["error"]


def test_a_page_includes_failed_rows(tmp_path):
    rows = [{"model": "a<b", "runtime": "eager", "error": "needs | more"}]
    assert "needs \\| more" in write_tables(tmp_path, rows)
    assert json.loads((tmp_path / "bench.json").read_text()) == rows
    assert "a&lt;b" in page(rows)


def test_values_shared_by_all_rows_are_printed_once(tmp_path):
    rows = [{"model": "icnet", "runtime": name, "hw": [64, 96], "batch": 1, "error": "not here"} for name in ("eager", "openvino")]
    text = write_tables(tmp_path, rows)
    assert text.startswith("All rows: model icnet, size 64x96, batch 1.\n\n| runtime | remarks |\n")
    assert "All rows: model icnet" in page(rows) and "<th>runtime</th><th>remarks</th>" in page(rows)
    assert "| runtime | eager |" in write_tables(tmp_path, rows[:1])


def test_rows_of_one_runtime_show_the_settings_that_differ(tmp_path):
    rows = [
        {"model": "icnet", "runtime": "eager", "hw": [1024, 2048], "settings": {"channels_last": value}} for value in (True, False)
    ]
    text = write_tables(tmp_path, rows)
    assert "| settings | remarks |" in text and "channels_last=True" in text and "channels_last=False" in text
    assert "not measured here" in text and "Titan X" in text, "at this size, published latencies are listed"
    assert "Titan X" in page(rows) and "Titan X" not in page([row | {"hw": [96, 128]} for row in rows])
    equal = [row | {"settings": {"channels_last": True}} for row in rows]
    assert "channels_last" not in write_tables(tmp_path, equal)


@pytest.mark.slow
def test_the_tool_makes_one_table_of_several_runtimes(tmp_path):
    overrides = [
        "model=icnet_half",
        "backbone.width=0.125",
        "hw=[64,96]",
        "max_seconds=0.2",
        "runtime=eager,onnxruntime",
        "precision=fp32,fp16",
    ]
    process = subprocess.run(
        [sys.executable, "tools/bench.py", "-m", *overrides, f"hydra.sweep.dir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["runtime"], row["precision"]) for row in rows] == [
        ("eager", "fp32"),
        ("eager", "fp16"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "fp16"),
    ]
    assert "does not support fp16" in rows[3]["error"]
    assert rows[0]["agreement"] > 0.999 and rows[0]["peak_memory_mb"] > 100 and rows[0]["machine"]["threads"] >= 1
