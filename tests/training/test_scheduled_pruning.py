"""Pruning during a training.

Optimizer moments and averages follow the new shapes, and interrupted runs end the same.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_training import SignalingData, make_components, make_run_dir, settings, train, weights_hash

import segzoo
from segzoo.checkpoints.serialization import read_model, read_trainer
from segzoo.checkpoints.store import latest_valid, list_checkpoints
from segzoo.layers.channel_widths import set_channel_widths_
from segzoo.registry import PRUNERS
from segzoo.training import context
from segzoo.training.pruning import ScheduledPruning, match_memory_format_

ROOT = Path(__file__).parents[2]


def run(directory, pruner, train_set=None, adam=False, **changes):
    components = make_components(train_set=train_set)
    components.pruner = pruner
    if adam:
        components.make_optimizer = lambda net: torch.optim.AdamW(net.parameters(), lr=0.01)
    result = train(components, make_run_dir(directory), **settings(**changes))
    return components.model, result


def staged_pruner(name="l1", **options):
    return PRUNERS.build(name, keep_schedule=[0.75, 0.5], start=0.25, **options)


@pytest.mark.integration
@pytest.mark.parametrize("name, adam", [("l1", False), ("random", True), ("taylor", True), ("bn_scale", False)])
def test_a_run_prunes_in_stages_and_resumes_to_the_same_end(tmp_path, name, adam):
    pruner = staged_pruner(name)
    expected, result = run(tmp_path / "whole", pruner, adam=adam, ema_decay=0.9)
    shapes = [expected.get_parameter(f"{name}.weight").shape for name in ("backbone.0", "head")]
    assert shapes == [(4, 3, 3, 3), (3, 4, 3, 3)]
    for when, width in ((14, 6), (26, 4)):  # after the first stage, and seven steps later after the second
        with pytest.raises(SystemExit):
            run(tmp_path / "stopped", pruner, SignalingData(signal.SIGTERM, when), adam=adam, ema_decay=0.9)
        checkpoint = latest_valid(tmp_path / "stopped")[0]
        assert checkpoint is not None and read_model(checkpoint)[1]["widths"] == {"backbone.0": width}
    actual, again = run(tmp_path / "stopped", pruner, adam=adam, ema_decay=0.9)
    assert weights_hash(actual) == weights_hash(expected)
    assert again | {"train_minutes": 0} == result | {"train_minutes": 0}


@pytest.mark.integration
def test_a_run_of_another_length_neither_repeats_nor_skips_a_stage(tmp_path):
    early = PRUNERS.build("l1", keep_ratio=0.5, start=0.25)
    for total_steps in (4, 12, 16):
        model, _ = run(tmp_path / "longer", early, steps=total_steps)
        assert model.get_parameter("backbone.0.weight").shape[0] == 4
    model, _ = run(tmp_path / "late", None, steps=6)
    model, _ = run(tmp_path / "late", early, steps=8)
    assert model.get_parameter("backbone.0.weight").shape[0] == 4, "its stage was due at step 2"


def test_batch_norm_scales_are_penalized_until_the_last_stage(tmp_path, monkeypatch):
    gradients = []

    def add_sparsity_gradient_(self):
        scale = self.model.get_parameter("backbone.1.weight")
        before = scale.grad.clone()
        original(self)
        gradients.append(((scale.grad - before).tolist(), scale.detach().sign().tolist()))

    original = ScheduledPruning.add_sparsity_gradient_
    monkeypatch.setattr(ScheduledPruning, "add_sparsity_gradient_", add_sparsity_gradient_)
    pruner = PRUNERS.build("bn_scale", keep_ratio=0.5, start=0.5, sparsity=0.25, allocation="uniform")
    run(tmp_path / "longer", pruner, steps=4)
    run(tmp_path / "longer", pruner, steps=12)  # already pruned at step 2, while a run of 12 steps prunes at step 6
    assert len(gradients) == 12
    for penalty, signs in gradients[:2]:
        assert penalty == pytest.approx([0.25 * sign for sign in signs], abs=1e-6)
    assert not any(any(penalty) for penalty, _ in gradients[2:])


@pytest.mark.integration
def test_channels_selected_for_other_weights_are_selected_again(tmp_path):
    def start(directory, keep_ratio, resume=None, total_steps=12):
        components = make_components()
        pruner = PRUNERS.build("l1", keep_ratio=keep_ratio, start=0.0)
        components.pruner = dataclasses.replace(pruner, chosen=frozenset(pruner.ranking(components.model, None).select(keep_ratio)))
        run_dir = dataclasses.replace(make_run_dir(directory), resume_from=resume)
        train(components, run_dir, **settings(steps=total_steps))
        return components.model

    start(tmp_path / "first", 0.75)
    pruned = latest_valid(tmp_path / "first")[0]
    model = start(tmp_path / "second", 0.5, pruned, total_steps=13)
    plain = make_components()
    plain.pruner = PRUNERS.build("l1", keep_ratio=0.5, start=0.0)
    train(plain, dataclasses.replace(make_run_dir(tmp_path / "plain"), resume_from=pruned), **settings(steps=13))
    assert model.get_parameter("head.weight").shape == (3, 4, 3, 3)
    assert weights_hash(model) == weights_hash(plain.model), "the least important remaining channels were removed"


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_loaded_widths_keep_the_memory_format_also_of_1x1_kernels(kernel, layout):
    """The strides choose the kernel that computes, and with it the last bits of a resumed run."""
    layer, expected = (nn.Conv2d(*channels, kernel, bias=False).to(memory_format=layout) for channels in ((6, 4), (5, 3)))
    set_channel_widths_(layer, {"weight": torch.randn(3, 5, kernel, kernel)})
    assert layer.weight.stride() == expected.weight.stride()


def test_moments_and_weights_keep_their_memory_format():
    layer = torch.nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_channel_widths_(layer, {"weight": torch.randn(5, 4, 3, 3), "bias": torch.zeros(5)})
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.randn(1, 4, 8, 8)).sum().backward()
    optimizer.step()
    state = optimizer.state[layer.weight]
    expected = state["exp_avg"].clone()
    state["exp_avg"] = expected.contiguous()
    match_memory_format_(optimizer)
    assert state["exp_avg"].stride() == layer.weight.stride() and torch.equal(state["exp_avg"], expected)


def test_moments_have_the_shapes_of_their_parameters(tmp_path):
    model, _ = run(tmp_path, staged_pruner(), adam=True, ema_decay=0.9)
    saved = read_trainer(latest_valid(tmp_path)[0])  # type: ignore[arg-type]
    shapes = [parameter.shape for parameter in model.parameters()]
    for index, state in saved["optimizer"]["state"].items():
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == shapes[index]
    assert all(saved["ema"]["trained"][name].shape == tensor.shape for name, tensor in model.state_dict().items())


def test_checkpoints_before_the_first_stage_have_full_width(tmp_path):
    run(tmp_path, staged_pruner(), keep_checkpoints=99)
    assert {step: read_model(tmp_path / "checkpoints" / str(step))[1]["widths"] for step in list_checkpoints(tmp_path)} == {
        0: {},
        3: {},
        4: {"backbone.0": 6},
        6: {"backbone.0": 6},
        8: {"backbone.0": 6},
        9: {"backbone.0": 4},
        12: {"backbone.0": 4},
    }


def test_the_best_checkpoint_is_fully_pruned(tmp_path, monkeypatch):
    mious = iter([0.9, 0.8, 0.7, 0.2, 0.3, 0.1])  # higher before the last stage than after it

    def evaluate(*args, **options):
        result = original(*args, **options)
        return dataclasses.replace(result, scores=dataclasses.replace(result.scores, miou=next(mious)))

    original = context.evaluate
    monkeypatch.setattr(context, "evaluate", evaluate)
    _, result = run(tmp_path, staged_pruner(), eval_every=2, early_stopping_patience=1)
    assert result["best_step"] == 10 and result["miou"] == 0.3, "early stopping waits for the last stage"
    assert read_model(tmp_path)[1]["widths"] == {"backbone.0": 4}


def run_tool(name, *overrides):
    process = subprocess.run([sys.executable, f"tools/{name}.py", *overrides], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.slow
def test_unsupported_options_of_the_pruning_tool_are_rejected(tmp_path):
    tiny = ["workers=0", "steps=2", "batch_size=2", "precision=fp32", "data.train_images=4", "data.val_images=2"]
    model = ["model=icnet", "backbone.width=0.125", "data.height=64", "data.width=96", "augment=none", f"out={tmp_path / 'full'}"]
    run_tool("train", *tiny, *model)
    overrides = [f"ckpt={tmp_path / 'full'}", "augment=none", f"out={tmp_path / 'cut'}", *tiny[:4]]
    assert "a step needs about" in run_tool("prune", *overrides, "dry_run=true") and not (tmp_path / "cut").exists()
    for invalid, message in (
        (["init.ckpt=conf"], "the model to prune is ckpt="),
        (["pruner.exclude=[stem]"], "start of no layer's name"),
    ):
        process = subprocess.run([sys.executable, "tools/prune.py", *overrides, *invalid], cwd=ROOT, capture_output=True, text=True)
        assert process.returncode == 1 and message in process.stderr and "Traceback" not in process.stderr, process.stderr
    output = run_tool("prune", *overrides, "pruner=bn_scale", "sensitivity=false", "bench_runtimes=[]", "bench_hw=[64,96]")
    assert "pruner.sparsity=0.0001 does nothing" in output


@pytest.mark.slow
def test_a_pruned_run_works_like_any_other(tmp_path):
    tiny = ["workers=0", "steps=2", "batch_size=2", "precision=fp32"]
    data = ["data.train_images=4", "data.val_images=2", "data.height=64", "data.width=96"]
    run_tool("train", "model=icnet", "backbone.width=0.125", *data, "augment=none", *tiny, f"out={tmp_path / 'full'}")
    quick = ["bench_runtimes=[eager]", "bench_hw=[64,96]", "bench_precision=fp32", "sensitivity=false"]
    distillation = ["distill=teacher", "distill.layers=[conv5_4]"]
    output = run_tool(
        "prune",
        f"ckpt={tmp_path / 'full'}",
        "augment=none",
        *tiny,
        *distillation,
        *quick,
        "pruner.keep_ratio=0.5",
        f"out={tmp_path / 'cut'}",
    )
    assert "fine-tuned" in output
    report = json.loads((tmp_path / "cut/result.json").read_text())["report"]
    assert [row["what"] for row in report] == ["before", "pruned", "fine-tuned"]
    assert report[0]["params"] > 3 * report[2]["params"] and report[1]["params"] == report[2]["params"]

    again = run_tool(
        "prune", f"ckpt={tmp_path / 'cut'}", "augment=none", *tiny, *quick, "pruner.keep_ratio=0.5", f"out={tmp_path / 'twice'}"
    )
    twice = segzoo.load(tmp_path / "twice")
    assert again and sum(p.numel() for p in twice.parameters()) < 0.5 * report[2]["params"]
    assert "mIoU" in run_tool("eval", f"ckpt={tmp_path / 'twice'}", f"out={tmp_path / 'eval'}")
    assert "channels before" in run_tool("describe", f"ckpt={tmp_path / 'twice'}") and (tmp_path / "twice/report.html").is_file()
    widths = read_model(tmp_path / "twice")[1]["widths"]
    assert widths == {name: layer.out_channels for name, layer in twice.named_modules() if name in widths} and len(widths) > 50
