"""Pruning inside a training: moments and averages follow the shapes, and a run that is stopped on the way ends the same."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_training import ToyData, make_components, make_run_dir, settings, train, weights_hash

import segzoo
from segzoo.checkpoints.serialization import read_model, read_trainer
from segzoo.checkpoints.store import latest_valid, list_checkpoints
from segzoo.layers.channel_widths import set_channel_widths_
from segzoo.registry import PRUNERS
from segzoo.training import context as session
from segzoo.training.pruning import ScheduledPruning, match_memory_format_

ROOT = Path(__file__).parents[2]


class Signalling(ToyData):
    """Toy images of which the n-th that is read sends SIGTERM."""

    def __init__(self, when):
        super().__init__(10)
        self.when, self.reads = when, 0

    def __getitem__(self, index):
        self.reads += 1
        if self.reads == self.when:
            signal.raise_signal(signal.SIGTERM)
        return super().__getitem__(index)


def run(folder, pruner, train_set=None, adam=False, **changed):
    components = make_components(train_set=train_set)
    components.pruner = pruner
    if adam:
        components.make_optimizer = lambda net: torch.optim.AdamW(net.parameters(), lr=0.01)
    result = train(components, make_run_dir(folder), **settings(**changed))
    return components.model, result


def staged(name="l1", **words):
    return PRUNERS.build(name, keep_schedule=[0.75, 0.5], start=0.25, **words)


@pytest.mark.parametrize("name, adam", [("l1", False), ("random", True), ("taylor", True), ("bn_scale", False)])
def test_a_run_prunes_in_stages_and_resumes_to_the_same_end(tmp_path, name, adam):
    pruner = staged(name)
    wanted, result = run(tmp_path / "whole", pruner, adam=adam, ema_decay=0.9)
    shapes = [wanted.get_parameter(f"{name}.weight").shape for name in ("backbone.0", "head")]
    assert shapes == [(4, 3, 3, 3), (3, 4, 3, 3)]
    for when, width in ((14, 6), (26, 4)):  # after the first stage, and seven steps later after the second
        with pytest.raises(SystemExit):
            run(tmp_path / "parts", pruner, Signalling(when), adam=adam, ema_decay=0.9)
        folder = latest_valid(tmp_path / "parts")[0]
        assert folder is not None and read_model(folder)[1]["widths"] == {"backbone.0": width}
    found, again = run(tmp_path / "parts", pruner, adam=adam, ema_decay=0.9)
    assert weights_hash(found) == weights_hash(wanted)
    assert again | {"train_minutes": 0} == result | {"train_minutes": 0}


def test_a_run_of_another_length_repeats_no_stage_and_forgets_none(tmp_path):
    early = PRUNERS.build("l1", keep_ratio=0.5, start=0.25)
    for steps_ in (4, 12, 16):
        model, _ = run(tmp_path / "longer", early, steps=steps_)
        assert model.get_parameter("backbone.0.weight").shape[0] == 4
    model, _ = run(tmp_path / "late", None, steps=6)
    model, _ = run(tmp_path / "late", early, steps=8)
    assert model.get_parameter("backbone.0.weight").shape[0] == 4, "its stage was due at step 2"


def test_norms_are_pressed_towards_zero_until_the_last_stage(tmp_path, monkeypatch):
    seen = []

    def press_(self):
        scale = self.model.get_parameter("backbone.1.weight")
        before = scale.grad.clone()
        real(self)
        seen.append(((scale.grad - before).tolist(), scale.detach().sign().tolist()))

    real = ScheduledPruning.add_sparsity_gradient_
    monkeypatch.setattr(ScheduledPruning, "add_sparsity_gradient_", press_)
    slimmer = PRUNERS.build("bn_scale", keep_ratio=0.5, start=0.5, sparsity=0.25, allocation="uniform")
    run(tmp_path / "longer", slimmer, steps=4)
    run(tmp_path / "longer", slimmer, steps=12)  # cut before step 3, where the stage of twelve steps comes before step 7
    assert len(seen) == 12
    for pressed, signs in seen[:2]:
        assert pressed == pytest.approx([0.25 * sign for sign in signs], abs=1e-6)
    assert not any(any(pressed) for pressed, _ in seen[2:])


def test_channels_chosen_on_one_network_are_not_cut_from_another(tmp_path):
    def start(folder, keep, resume=None, steps_=12):
        components = make_components()
        pruner = PRUNERS.build("l1", keep_ratio=keep, start=0.0)
        components.pruner = dataclasses.replace(pruner, chosen=frozenset(pruner.ranking(components.model, None).select(keep)))
        place = dataclasses.replace(make_run_dir(folder), resume_from=resume)
        train(components, place, **settings(steps=steps_))
        return components.model

    start(tmp_path / "first", 0.75)
    cut = latest_valid(tmp_path / "first")[0]
    found = start(tmp_path / "second", 0.5, cut, steps_=13)
    plain = make_components()
    plain.pruner = PRUNERS.build("l1", keep_ratio=0.5, start=0.0)
    train(plain, dataclasses.replace(make_run_dir(tmp_path / "plain"), resume_from=cut), **settings(steps=13))
    assert found.get_parameter("head.weight").shape == (3, 4, 3, 3)
    assert weights_hash(found) == weights_hash(plain.model), "the least of what was left went, by its own weights"


def test_moments_and_weights_keep_their_memory_order():
    layer = torch.nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_channel_widths_(layer, {"weight": torch.randn(5, 4, 3, 3), "bias": torch.zeros(5)})
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.randn(1, 4, 8, 8)).sum().backward()
    optimizer.step()
    state = optimizer.state[layer.weight]
    wanted = state["exp_avg"].clone()
    state["exp_avg"] = wanted.contiguous()
    match_memory_format_(optimizer)
    assert state["exp_avg"].stride() == layer.weight.stride() and torch.equal(state["exp_avg"], wanted)


def test_moments_have_the_shapes_of_their_parameters(tmp_path):
    model, _ = run(tmp_path, staged(), adam=True, ema_decay=0.9)
    saved = read_trainer(latest_valid(tmp_path)[0])  # type: ignore[arg-type]
    shapes = [parameter.shape for parameter in model.parameters()]
    for index, state in saved["optimizer"]["state"].items():
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == shapes[index]
    assert all(saved["ema"]["trained"][name].shape == tensor.shape for name, tensor in model.state_dict().items())


def test_checkpoints_before_the_first_stage_have_full_width(tmp_path):
    run(tmp_path, staged(), keep_checkpoints=99)
    assert {step: read_model(tmp_path / "checkpoints" / str(step))[1]["widths"] for step in list_checkpoints(tmp_path)} == {
        0: {},
        3: {},
        4: {"backbone.0": 6},
        6: {"backbone.0": 6},
        8: {"backbone.0": 6},
        9: {"backbone.0": 4},
        12: {"backbone.0": 4},
    }


def test_the_best_checkpoint_has_lost_all_it_is_to_lose(tmp_path, monkeypatch):
    scored = iter([0.9, 0.8, 0.7, 0.2, 0.3, 0.1])  # better before the last stage than ever after it

    def evaluate(*args, **words):
        found = real(*args, **words)
        return dataclasses.replace(found, scores=dataclasses.replace(found.scores, miou=next(scored)))

    real = session.evaluate
    monkeypatch.setattr(session, "evaluate", evaluate)
    _, result = run(tmp_path, staged(), eval_every=2, early_stopping_patience=1)
    assert result["best_step"] == 10 and result["miou"] == 0.3, "and patience does not end a run that has stages before it"
    assert read_model(tmp_path)[1]["widths"] == {"backbone.0": 4}


def tool(name, *words):
    done = subprocess.run([sys.executable, f"tools/{name}.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_the_pruning_tool_does_not_do_it_says(tmp_path):
    start = ["workers=0", "steps=2", "batch_size=2", "precision=fp32", "data.train_images=4", "data.val_images=2"]
    words = ["model=icnet", "backbone.width=0.125", "data.height=64", "data.width=96", "augment=none", f"out={tmp_path / 'full'}"]
    tool("train", *start, *words)
    given = [f"ckpt={tmp_path / 'full'}", "augment=none", f"out={tmp_path / 'cut'}", *start[:4]]
    assert "a step needs about" in tool("prune", *given, "dry_run=true") and not (tmp_path / "cut").exists()
    for words, said in (
        (["init.ckpt=conf"], "what is pruned is ckpt="),
        (["pruner.exclude=[stem]"], "beginning of no layer's name"),
    ):
        done = subprocess.run([sys.executable, "tools/prune.py", *given, *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    said = tool("prune", *given, "pruner=bn_scale", "sensitivity=false", "bench_runtimes=[]", "bench_hw=[64,96]")
    assert "pruner.sparsity=0.0001 does nothing" in said


@pytest.mark.slow
def test_a_pruned_run_is_an_ordinary_one(tmp_path):
    tiny = ["workers=0", "steps=2", "batch_size=2", "precision=fp32"]
    data = ["data.train_images=4", "data.val_images=2", "data.height=64", "data.width=96"]
    tool("train", "model=icnet", "backbone.width=0.125", *data, "augment=none", *tiny, f"out={tmp_path / 'full'}")
    quick = ["bench_runtimes=[eager]", "bench_hw=[64,96]", "bench_precision=fp32", "sensitivity=false"]
    taught = ["distill=teacher", "distill.layers=[conv5_4]"]
    said = tool(
        "prune",
        f"ckpt={tmp_path / 'full'}",
        "augment=none",
        *tiny,
        *taught,
        *quick,
        "pruner.keep_ratio=0.5",
        f"out={tmp_path / 'cut'}",
    )
    assert "fine-tuned" in said
    report = json.loads((tmp_path / "cut/result.json").read_text())["report"]
    assert [row["what"] for row in report] == ["before", "pruned", "fine-tuned"]
    assert report[0]["params"] > 3 * report[2]["params"] and report[1]["params"] == report[2]["params"]

    again = tool(
        "prune", f"ckpt={tmp_path / 'cut'}", "augment=none", *tiny, *quick, "pruner.keep_ratio=0.5", f"out={tmp_path / 'twice'}"
    )
    twice = segzoo.load(tmp_path / "twice")
    assert again and sum(p.numel() for p in twice.parameters()) < 0.5 * report[2]["params"]
    assert "mIoU" in tool("eval", f"ckpt={tmp_path / 'twice'}", f"out={tmp_path / 'eval'}")
    assert "channels before" in tool("describe", f"ckpt={tmp_path / 'twice'}") and (tmp_path / "twice/report.html").is_file()
    widths = read_model(tmp_path / "twice")[1]["widths"]
    assert widths == {name: layer.out_channels for name, layer in twice.named_modules() if name in widths} and len(widths) > 50
