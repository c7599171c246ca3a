"""The pruning report and the stages it shows."""

from __future__ import annotations

import copy
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from toy_training import make_components

from segzoo.api import create_model
from segzoo.config.build import build_data
from segzoo.pruning._base import Pruner
from segzoo.pruning.sensitivity import SensitivityCurve
from segzoo.registry import LOSSES, PRUNERS
from segzoo.workflows.prune.report import write_report
from segzoo.workflows.prune.stages import evaluate_stages

ROWS = [
    {"what": "before", "miou": 0.5, "miou_interval": (0.45, 0.55), "params": 1000, "gmacs": 2.0},
    {"what": "pruned", "miou": 0.2, "miou_interval": (0.15, 0.25), "params": 500, "gmacs": 1.0},
    {"what": "fine-tuned", "miou": 0.4, "miou_interval": (0.35, 0.45), "params": 400, "gmacs": 0.8},
]
CURVES = [SensitivityCurve(0, ("a.conv", "b.<conv>"), 8, {1.0: 1.0, 0.75: 1.1, 0.5: 1.3, 0.25: 2.0})]


def timing(ms, runtime="eager"):
    return {"runtime": runtime, "precision": "bf16", "hw": [64, 96], "ms_per_image": {"p50": ms}, "peak_memory_mb": 90.0}


def test_a_report_states_speedups_and_their_absence(tmp_path):
    unavailable = {"runtime": "openvino", "error": "not\ninstalled"}
    times = {
        "before": [timing(20.0), timing(10.0, "torch_compile"), unavailable],
        "after": [timing(10.0), timing(9.9, "torch_compile"), unavailable],
    }
    text = write_report(tmp_path, ROWS, times, CURVES)
    assert text == (tmp_path / "report.md").read_text()
    assert "| before | 50.00 | 45.0 to 55.0 | 1,000 | 2.00 | 20.0 | 90 |" in text
    assert "| pruned | 20.00 | 15.0 to 25.0 | 500 | 1.00 |  |  |" in text, (
        "not timed: its size differs from that of the fine-tuned model"
    )
    assert "| fine-tuned | 40.00 | 35.0 to 45.0 | 400 | 0.80 | 10.0 | 90 |" in text
    assert "eager bf16 at 64x96: 2.00 times as fast, 20.0 ms before and 10.0 ms after." in text
    assert "torch_compile bf16 at 64x96: NOT faster, 10.0 ms before and 9.9 ms after." in text
    assert "openvino: not timed: not installed" in text
    assert "| a.conv, b.<conv> | 8 | 1.0000 | 1.1000 | 1.3000 | 2.0000 |" in text
    page = (tmp_path / "report.html").read_text()
    assert page.count('<table class="matrix">') == 1 and "b.&lt;conv&gt;" in page and "NOT faster" in page
    assert "<th>GMACs at 1024x2048</th>" in page
    shades = re.findall(r'style="--v: ([\d.]+)" title="(\d+)% kept: \+([\d.]+)"', page)
    assert shades == [("0.100", "75", "0.1000"), ("0.300", "50", "0.3000"), ("1.000", "25", "1.0000")]


def test_a_report_without_intervals_has_empty_cells(tmp_path):
    rows = [row | {"miou_interval": None} for row in ROWS]
    assert "| before | 50.00 |  | 1,000 | 2.00 |" in write_report(tmp_path, rows, {}, ())


def test_a_report_states_the_target(tmp_path):
    target = {"kind": "ms", "value": 20.0, "hw": [64, 96], "runtime": "openvino", "precision": "bf16"}
    trials = [{"keep_ratio": 0.05, "ms": 2.0}, {"keep_ratio": 0.625, "ms": 19.5}, {"keep_ratio": 1.0, "ms": 31.0}]
    (tmp_path / "target_search.json").write_text(json.dumps({"keep_ratio": 0.625, "target": target, "trials": trials}))
    line = "pruner.target_ms=20, openvino bf16 at 64x96: reached 19.5 with 62.5% of the channels kept."
    assert line in write_report(tmp_path, ROWS, {}, ()) and line in (tmp_path / "report.html").read_text()


def test_a_report_needs_no_times_and_no_curves(tmp_path):
    text = write_report(tmp_path, ROWS[:1], {}, ())
    assert "| before | 50.00 | 45.0 to 55.0 | 1,000 | 2.00 |\n" in text and "loss" not in text
    assert "Sensitivity" not in (tmp_path / "report.html").read_text()


@pytest.mark.integration
@pytest.mark.parametrize(
    "settings, stages", [({"keep_schedule": [0.75, 0.5], "start": 0.0}, ["before", "pruned"]), ({"start": 0.5}, ["before"])]
)
def test_stages_are_evaluated_once_and_leave_the_model_unchanged(tmp_path, monkeypatch, settings, stages):
    data = {"name": "parts", "height": 64, "width": 96, "train_images": 2, "val_images": 2}
    train, val = (build_data(data, split) for split in ("train", "val"))
    model: Any = create_model("icnet", backbone={"name": "resnet50", "width": 0.125}, num_classes=train.info.num_classes)
    loss = LOSSES.build("cross_entropy", model.aux_weights, model.align_corners)
    components: Any = SimpleNamespace(
        model=model,
        train_set=train,
        val_set=val,
        info=train.info,
        augment=None,
        loss=loss,
        pruner=PRUNERS.build("l1", **settings),
        config={"pruner": settings},
    )
    count = sum(p.numel() for p in model.parameters())
    options = {"device": "cpu", "precision": "fp32", "workers": 0, "bench_hw": (64, 96), "sensitivity": len(stages) == 1}
    rows, curves = evaluate_stages(components, tmp_path, **options)
    assert [row["what"] for row in rows] == stages and sum(p.numel() for p in model.parameters()) == count
    assert all(0 <= row["miou"] <= 1 and row["miou_interval"] is None for row in rows), "too few images for an interval"
    if len(stages) == 2:
        assert 0.5 < rows[1]["params"] / rows[0]["params"] < 0.65, "the first stage keeps three of four channels"
        assert not curves
        monkeypatch.setattr(Pruner, "ranking", lambda *_: pytest.fail("the channels were already selected"))
        pruned = copy.deepcopy(model)
        components.pruner.prune_(pruned, 0.75, None)
        assert sum(p.numel() for p in pruned.parameters()) < count
        chosen, components.pruner = components.pruner.chosen, PRUNERS.build("l1", **settings)
    else:
        assert {share for curve in curves for share in curve.losses} == {1.0, 0.75, 0.5, 0.25} and len(curves) > 30
    monkeypatch.setattr("segzoo.evaluation.evaluator.evaluate", lambda *_, **__: pytest.fail("a resumed run reads the stored rows"))
    stored_rows, stored_curves = evaluate_stages(components, tmp_path, **options)
    assert [row["params"] for row in stored_rows] == [row["params"] for row in rows] and list(stored_curves) == list(curves)
    if len(stages) == 2:
        assert components.pruner.chosen == chosen, "a resumed run removes the same channels"


@pytest.mark.parametrize(
    "changed", [{"bench_hw": (96, 64)}, {"sensitivity": True}, {"precision": "bf16"}, "augment", "weights", "keep_ratio"]
)
def test_stages_are_evaluated_again_if_anything_they_depend_on_changed(tmp_path, monkeypatch, changed):
    def evaluations(options):
        evaluated = []

        def evaluate(model, *_, **__):
            evaluated.append(model)
            return SimpleNamespace(scores=SimpleNamespace(miou=0.5), interval=(0.4, 0.6))

        monkeypatch.setattr("segzoo.evaluation.evaluator.evaluate", evaluate)
        monkeypatch.setattr("segzoo.workflows.prune.stages._model_size", lambda model, hw: {"params": 1, "gmacs": 1.0})
        evaluate_stages(components, tmp_path, **options)
        return len(evaluated)

    components = make_components()
    components.pruner, components.config["augment"] = PRUNERS.build("l1", keep_ratio=0.5, start=0.0), {"name": "flip"}
    options = {"device": "cpu", "precision": "fp32", "workers": 0, "bench_hw": (64, 96), "sensitivity": False}
    assert (evaluations(options), evaluations(options)) == (2, 0)
    if changed == "augment":
        components.config["augment"] = {"name": "full"}
    elif changed == "weights":
        components.model.get_parameter("head.weight").data += 1
    elif changed == "keep_ratio":
        components.pruner = PRUNERS.build("l1", keep_ratio=0.25, start=0.0)
    else:
        options |= changed
    assert evaluations(options) == 2


def test_a_loss_that_falls_counts_as_no_rise(tmp_path):
    curves = [SensitivityCurve(0, ("a",), 8, {1.0: 1.0, 0.5: 0.8, 0.25: 1.5})]
    write_report(tmp_path, ROWS, {}, curves)
    shades = re.findall(r'style="--v: ([\d.-]+)" title="(\d+)% kept: \+([\d.-]+)"', (tmp_path / "report.html").read_text())
    assert shades == [("0.000", "50", "0.0000"), ("1.000", "25", "0.5000")]
