"""What helps a training along: steps left out, averaged weights, an early end, frozen stages, mixed images. All of it resumes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toy_training import Toy, ToyLoss, make_components, make_run_dir, settings, train, weights_hash

from segzoo.api import create_model
from segzoo.checkpoints.serialization import read_model, read_trainer
from segzoo.checkpoints.store import list_checkpoints, read_pointer
from segzoo.optim.ema import ModelEma
from segzoo.registry import BACKBONES, INITS, MIXES
from segzoo.training.state import Diverged


class BadAt(ToyLoss):
    """Gives NaN in the calls named."""

    def __init__(self, *when: int):
        super().__init__()
        self.when, self.calls = when, 0

    def terms(self, logits, label, weight=None):
        self.calls += 1
        return super().terms(logits, label, weight) * (float("nan") if self.calls in self.when else 1.0)


def test_a_bad_step_changes_nothing_not_even_running_statistics(tmp_path, capsys):
    words = settings(steps=3, eval_every=3, save_every=1, max_nonfinite_steps=1, keep_checkpoints=9)
    components = make_components(loss=BadAt(2))
    train(components, make_run_dir(tmp_path), **words)
    one, two, three = (load_file(tmp_path / f"checkpoints/{step}/model.safetensors") for step in (1, 2, 3))
    assert all(torch.equal(one[name], two[name]) for name in one if "num_batches" not in name)
    assert not torch.equal(two["head.weight"], three["head.weight"])
    printed = capsys.readouterr().out
    assert "skipped, 1 of 1 consecutive steps allowed: the loss is nan at step 2, on toy" in printed
    states = [read_trainer(tmp_path / f"checkpoints/{step}") for step in (1, 2, 3)]
    assert [state["nonfinite_steps"] for state in states] == [0, 1, 0]


def test_bad_steps_in_a_row_end_the_run_also_across_a_resume(tmp_path):
    words = settings(steps=6, save_every=1, eval_every=6, max_nonfinite_steps=2, keep_checkpoints=9)
    with pytest.raises(Diverged, match=r"the loss is nan at step 5.*resume with resume=<run directory>"):
        train(make_components(loss=BadAt(3, 4, 5)), make_run_dir(tmp_path), **words)
    assert list_checkpoints(tmp_path)[-1] == 4
    with pytest.raises(Diverged, match="at step 5"):
        train(make_components(loss=BadAt(1)), make_run_dir(tmp_path), **words)
    train(make_components(), make_run_dir(tmp_path), **words)
    assert list_checkpoints(tmp_path)[-1] == 6


def test_the_average_is_torchs_with_the_usual_start():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average, mean = ModelEma(model, 0.9), model.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        average.update()
        keep = min(0.9, (1 + step) / (10 + step))
        mean = keep * mean + (1 - keep) * model.weight.detach()
    trained = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), mean)
    assert torch.equal(model.weight, trained)


def test_an_averaged_run_stores_the_average_and_resumes_bit_for_bit(tmp_path):
    words = settings(steps=8, eval_every=4, save_every=4, ema_decay=0.5, keep_checkpoints=9)
    whole = make_components()
    train(whole, make_run_dir(tmp_path / "whole"), **words)
    stored, state = read_model(tmp_path / "whole/checkpoints/8")[0], read_trainer(tmp_path / "whole/checkpoints/8")
    trained = state["ema"]["trained"]
    assert not torch.equal(stored["head.weight"], trained["head.weight"])
    assert torch.equal(whole.model.state_dict()["head.weight"], trained["head.weight"])
    run = make_run_dir(tmp_path / "again")
    run.resume_from = tmp_path / "whole/checkpoints/4"
    again = make_components()
    train(again, run, **words)
    assert weights_hash(again.model) == weights_hash(whole.model)
    assert all(torch.equal(read_model(tmp_path / "again/checkpoints/8")[0][name], stored[name]) for name in stored)


def test_a_run_without_better_scores_ends_early(tmp_path, capsys):
    components = make_components()
    components.make_schedule = lambda total: lambda step: 0.0  # nothing is learned, so the first score stays the best
    for norm in components.model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.0
    result = train(components, make_run_dir(tmp_path), **settings(steps=40, eval_every=2, early_stopping_patience=3))
    assert result["steps"] == 8 and read_pointer(tmp_path, "best") == tmp_path / "checkpoints/2"
    assert "no better mIoU in 3 evaluations, ending at step 8" in capsys.readouterr().out
    scored = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in scored if row["split"] == "val"] == [2, 4, 6, 8]


@pytest.mark.parametrize("name, words", [("resnet50", {"width": 0.125}), ("vgg16", {"batch_norm": True})])
def test_frozen_stages_keep_weights_and_statistics(name, words):
    small: dict[str, Any] = {"fc_channels": 8} if name == "vgg16" else {}
    model: Any = create_model("fcn", backbone={"name": name} | words, num_classes=3, **small)
    INITS.build("checkpoint", model, None, freeze=("c1", "c2"))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    nn.init.normal_(model.score.weight)
    model.train()(torch.randn(2, 3, 64, 64)).main.square().mean().backward()
    optimizer.step()
    after = model.state_dict()
    frozen = [key for key in before if key.startswith(("backbone.c1.", "backbone.c2."))]
    assert frozen and all(torch.equal(before[key], after[key]) for key in frozen)
    moved = [key for key in before if key.startswith("backbone.c3.") and "running_mean" in key]
    assert moved and not any(torch.equal(before[key], after[key]) for key in moved)
    assert BACKBONES.build(name, **words).train().frozen == ()


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixed_pictures_resume_bit_for_bit(tmp_path, name):
    def components():
        made = make_components(model=None)
        made.mix = MIXES.build(name, alpha=1.0, prob=0.8)
        return made

    words = settings(steps=8, eval_every=8, save_every=4, keep_checkpoints=9)
    plain, whole, again = make_components(), components(), components()
    train(plain, make_run_dir(tmp_path / "plain"), **words)
    train(whole, make_run_dir(tmp_path / "whole"), **words)
    run = make_run_dir(tmp_path / "again")
    run.resume_from = tmp_path / "whole/checkpoints/4"
    train(again, run, **words)
    assert weights_hash(again.model) == weights_hash(whole.model) != weights_hash(plain.model)
    assert isinstance(again.model, Toy)
