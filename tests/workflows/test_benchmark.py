"""A bench measures what it was asked for, compares labels on images held out, and tells its rows apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
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
from segzoo.workflows.benchmark.workload import build_workload
from tools.bench import bench as bench_tool

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _known_peak(monkeypatch):
    """The machine's peak, which takes seconds to measure and is looked at in test_timing."""
    monkeypatch.setattr("segzoo.workflows.benchmark.measure.roofline", lambda device, kind: {"tflops": 0.5, "gb_per_s": 10.0})


def test_a_network_of_one_label_is_told():
    image = np.zeros((40, 50, 3), np.uint8)
    row = benchmark(
        lambda x: x.permute(0, 3, 1, 2).float(), lambda x: x.argmax(1), [image], [image[..., 0]], CPU, 1, max_seconds=0.01
    )
    assert row["agreement"] == 1 and "as class 0: agreement says nothing" in " ".join(row["warnings"])


def test_each_place_of_a_batch_is_compared():
    pictures = [np.full((40, 50, 3), value, np.uint8) for value in (0, 1, 2)]
    truth = [picture[..., 0] for picture in pictures]

    def first_alone(batch):
        labels = batch[..., 0].clone()
        labels[1:] = 9
        return labels

    row = benchmark(first_alone, lambda x: x, pictures, truth, CPU, 1, batch=2, max_seconds=0.01)
    assert row["agreement"] == 0.5


def test_bench_counts_pictures_and_agreement():
    pictures = [np.full((40, 50, 3), value, np.uint8) for value in (0, 255)]
    truth = [np.zeros((40, 50), np.uint8), np.zeros((40, 50), np.uint8)]
    calls = []

    def call(batch):
        calls.append(tuple(batch.shape))
        return torch.stack([1 - batch[..., 0] / 255.0, batch[..., 0] / 255.0], 1)

    row = benchmark(call, lambda logits: logits.argmax(1), pictures, truth, CPU, 0.5, batch=3, max_seconds=0.05)
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

    benchmark(call, lambda logits: logits.argmax(1), [image], [image[..., 0]], CPU, 1, scope="end_to_end", max_seconds=0.01)
    np.testing.assert_array_equal(seen[0][0], image)


def config(**words):
    base: dict[str, Any] = {
        "model": {"name": "icnet"},
        "backbone": {"name": "resnet50", "width": 0.125},
        "data": {"name": "parts", "height": 64, "width": 96},
        "runtime": {"name": "eager"},
    }
    return base | {"hw": [64, 96], "max_seconds": 0.1} | words


def test_nothing_to_measure_is_refused():
    with pytest.raises(ConfigError, match="say model=<name>"):
        build_workload(config(model=None))


def test_fresh_networks_have_settled_norms():
    first, again = (build_workload(config()["model"] and config(), num_classes=4) for _ in range(2))
    assert first.weights == again.weights and first.weights.startswith("random, seed 0")
    norms = [layer for layer in first.model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert all(not norm.training and (norm.running_var != 1).any() for norm in norms if norm.num_batches_tracked)
    assert sum(bool(norm.num_batches_tracked) for norm in norms) > 40


def test_every_fresh_network_tells_classes_apart():
    """FCN starts with scores of zero; whatever runs it would agree on class 0."""
    for name in ("fcn", "icnet"):
        chosen = build_workload(config(model={"name": name}), num_classes=4)
        assert len(np.unique(chosen.model.predict(chosen.data[0].image))) > 1


def test_a_taken_folder_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("{}")
    monkeypatch.setattr("segzoo.workflows.benchmark.runner.run_in_subprocess", lambda config: pytest.fail("it was measured"))
    with pytest.raises(ConfigError, match="already holds results"):
        bench_tool(Job(config(out=str(tmp_path)), {}, {"model": "icnet", "runtime": "eager"}, None))


def test_int8_is_judged_on_pictures_it_did_not_see(monkeypatch):
    seen = {}

    def build(name, given, **words):
        seen["order"] = given
        raise RuntimeUnavailable("enough")

    monkeypatch.setattr(RUNTIMES, "build", build)
    monkeypatch.setattr(SegModel, "predict", lambda model, picture: seen.setdefault("checked", []).append(picture))
    runtime = {"name": "onnxruntime", "calibration_images": 3}
    row = run_benchmark(config(runtime=runtime, precision="int8", batch=1, scope="net", interval=0.5), num_check_images=2)
    assert row["error"] == "enough" and len(seen["checked"]) == 2 and len(seen["order"].pictures) == 3
    assert not any(np.array_equal(one, other) for one in seen["checked"] for other in seen["order"].pictures)


def test_words_are_checked():
    with pytest.raises(ConfigError) as error:
        validate("bench", config(scope="everything", hw=[10, 20], batch=0))
    assert len(error.value.errors) == 3


def test_a_job_that_fails_keeps_its_name_and_its_error(monkeypatch):
    row = run_in_subprocess(config(precision="fp32", batch=2, scope="net", seconds=0.1, interval=0.5, check=0))
    assert row["runtime"] == "eager" and row["batch"] == 2 and row["hw"] == [64, 96] and row["model"] == "icnet"
    assert "ZeroDivisionError" in row["error"]


def test_a_page_shows_rows_that_failed_too(tmp_path):
    rows = [{"model": "a<b", "runtime": "eager", "error": "needs | more"}]
    assert "needs \\| more" in write_tables(tmp_path, rows)
    assert json.loads((tmp_path / "bench.json").read_text()) == rows
    assert "a&lt;b" in page(rows) and "Titan X" in page(rows)


def test_what_all_rows_share_is_told_once(tmp_path):
    rows = [{"model": "icnet", "runtime": name, "hw": [64, 96], "batch": 1, "error": "not here"} for name in ("eager", "openvino")]
    text = write_tables(tmp_path, rows)
    assert text.startswith("All rows: model icnet, size 64x96, batch 1.\n\n| runtime | remarks |\n")
    assert "All rows: model icnet" in page(rows) and "<th>runtime</th><th>remarks</th>" in page(rows)
    assert "| runtime | eager |" in write_tables(tmp_path, rows[:1])


def test_rows_of_one_runtime_are_told_apart_by_its_settings(tmp_path):
    rows = [{"model": "icnet", "runtime": "eager", "hw": [1024, 2048], "settings": {"channels_last": way}} for way in (True, False)]
    text = write_tables(tmp_path, rows)
    assert "| settings | remarks |" in text and "channels_last=True" in text and "channels_last=False" in text
    assert "not measured here" in text and "Titan X" in text, "at this size, what others claim stands beside"
    alike = [row | {"settings": {"channels_last": True}} for row in rows]
    assert "channels_last" not in write_tables(tmp_path, alike)


@pytest.mark.slow
def test_the_tool_makes_one_table_over_runtimes(tmp_path):
    words = [
        "model=icnet_half",
        "backbone.width=0.125",
        "hw=[64,96]",
        "max_seconds=0.2",
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
    assert "does not run in fp16" in rows[3]["error"]
    assert rows[0]["agreement"] > 0.999 and rows[0]["peak_memory_mb"] > 100 and rows[0]["machine"]["threads"] >= 1
