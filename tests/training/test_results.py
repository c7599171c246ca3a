"""Predictions shown during a training, and scores that evaluation repeats."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from drawn_text import record_text
from PIL import Image
from toy_training import INFO, Toy, ToyData, ToyLoss, make_components, make_run_dir, settings, train

from segzoo.checkpoints.serialization import add_scores, read_model, read_scores
from segzoo.checkpoints.store import latest_valid
from segzoo.device import Precision
from segzoo.evaluation.evaluator import evaluate
from segzoo.registry import ConfigError
from segzoo.training.results import choose_images, prediction_panels
from segzoo.visualization.panels import comparison_grid


def labeled(*images):
    """Counts of images, each given as (hit, labeled, predicted) by class."""
    return np.array(images).transpose(0, 2, 1)


GOOD, BAD, NONE = (9, 10, 10), (1, 10, 10), (0, 0, 0)


def test_the_chosen_images_hold_every_class_and_the_worst_is_found():
    counts = labeled(
        (GOOD, NONE, NONE), (GOOD, NONE, NONE), (BAD, NONE, NONE), (NONE, GOOD, NONE), (GOOD, NONE, GOOD), (NONE, NONE, NONE)
    )
    chosen, worst = choose_images(counts, 4)
    assert chosen[:2] == [4, 3] and len(set(chosen)) == 3 and worst == 2, "an image without labels has no score"
    assert choose_images(counts[::-1], 4)[0][:2] == [1, 2]
    better = counts.copy()
    better[2, 0, 0] = 10
    assert choose_images(better, 4)[0] == chosen, "the images to compare are the same in every evaluation"
    assert choose_images(counts, 1) == ([], 2) and len(choose_images(counts, 100)[0]) == 6


@pytest.fixture(scope="module")
def worsening(tmp_path_factory):
    """A run whose weights move uphill after step 8."""
    run, patch = tmp_path_factory.mktemp("run"), pytest.MonkeyPatch()
    components = make_components(val_set=ToyData(12, first=100, vary=True))
    components.make_schedule = lambda total: lambda step: 1.0 if step <= 8 else -3.0
    texts = record_text(patch)
    try:
        train(components, make_run_dir(run), **settings(num_val_images=3, keep_checkpoints=9))
    finally:
        patch.undo()
    return run, components, texts


def trained(run, step):
    model = Toy()
    model.load_state_dict(read_model(run / "checkpoints" / str(step))[0])
    return model


@pytest.mark.integration
def test_the_grid_shows_the_best_checkpoint(worsening):
    run, components, texts = worsening
    scores: dict[int, Any] = {step: read_scores(run / "checkpoints" / str(step)) for step in (4, 8, 12)}
    best = max(scores, key=lambda step: scores[step]["miou"])
    assert best == int((run / "checkpoints" / "best").read_text()) != 12, "the run must not end with its best step"
    grid = np.array(Image.open(run / "vis" / "val.png"))
    title = next(text for text in reversed(texts) if text.startswith("best checkpoint"))
    assert title.startswith(f"best checkpoint, step {best}: mIoU {100 * scores[best]['miou']:.2f}")
    for step in (best, 12):
        counts = evaluate(trained(run, best), components.val_set, INFO, device="cpu", workers=0).per_image_counts
        precision = Precision("fp32", torch.device("cpu"))
        panels = prediction_panels(trained(run, step), components.val_set, INFO, precision, counts, 3)
        expected = comparison_grid([panel.image for panel in panels], [panel.labels for panel in panels], INFO, title)
        assert (grid.shape == expected.shape and (grid == expected).all()) == (step == best)
    assert any(text.endswith(", the worst") for text in texts) and texts.count("sky") > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_eval_repeats_the_trainers_score_to_the_last_digit(tmp_path, precision, channels_last):
    components = make_components()
    train(components, make_run_dir(tmp_path), **settings(steps=2, eval_every=2, precision=precision, channels_last=channels_last))
    stored: Any = read_scores(tmp_path / "checkpoints/2")
    result = evaluate(trained(tmp_path, 2), components.val_set, INFO, ToyLoss(), device="cpu", workers=0, precision=precision)
    assert result.scores.to_dict().items() <= stored.items() and stored["protocol_id"] == result.protocol_id
    other = evaluate(trained(tmp_path, 2), components.val_set, INFO, device="cpu", workers=0, precision="fp16")
    assert other.protocol_id != stored["protocol_id"]


@pytest.mark.parametrize(
    ("precision", "capability", "expected"), [("fp32", "AVX2", False), ("fp32", "AVX512", True), ("bf16", "AVX2", True)]
)
def test_the_memory_order_is_chosen_by_precision_and_processor(monkeypatch, precision, capability, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    picks = Precision(precision, torch.device("cpu")).picks_channels_last
    assert (picks("auto"), picks(True), picks(False)) == (expected, True, False)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (ToyData(2, first=100, vary=True), r"since step 4 \(from 3 to 2\)"),
        (ToyData(3, first=101, vary=True), r"\(3 of other names or in another order\)"),
    ],
)
def test_a_run_keeps_its_validation_images(tmp_path, changed, expected):
    train(make_components(), make_run_dir(tmp_path), **settings(steps=4))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=rf"{expected}, .*Restore them, or set another out: resume={tmp_path} out="):
        train(make_components(val_set=changed), make_run_dir(tmp_path), **settings(steps=8))
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    fork = make_run_dir(tmp_path / "fork")
    fork.resume_from = latest_valid(tmp_path)[0]
    assert train(make_components(val_set=changed), fork, **settings(steps=8))["steps"] == 8
    stored: Any = read_scores(tmp_path / "checkpoints/4")
    del stored["protocol"]["names"], stored["protocol"]["precision"]  # as in older checkpoints
    add_scores(tmp_path / "checkpoints/4", stored)
    assert train(make_components(val_set=changed), make_run_dir(tmp_path), **settings(steps=8))["steps"] == 8


def test_another_precision_than_that_of_the_best_score_is_noted(tmp_path, capsys):
    for precision, steps in (("fp32", 4), ("fp32", 6), ("bf16", 8)):
        capsys.readouterr()
        train(make_components(), make_run_dir(tmp_path), **settings(precision=precision, steps=steps))
        notes = capsys.readouterr().out.count("note: the best score so far was computed in fp32 and new ones are in bf16")
        assert notes == int(precision == "bf16")


def test_parameters_are_counted_without_training_only_heads(worsening):
    import json

    run, components, _ = worsening
    expected = sum(tensor.numel() for name, tensor in components.model.named_parameters() if not name.startswith("aux."))
    result = train(components, make_run_dir(run), **settings(num_val_images=0))
    assert result["params"] == expected < sum(tensor.numel() for tensor in components.model.parameters())
    assert json.dumps(result)


def test_of_equal_scores_those_of_the_earliest_stay(tmp_path):
    components = make_components(model=Toy(norm=False))
    components.make_schedule = lambda total: lambda step: 0.0  # nothing is learned
    train(components, make_run_dir(tmp_path), **settings(steps=4, eval_every=2))
    assert (tmp_path / "checkpoints/best").read_text() == "2\n"
    summary = json.loads((tmp_path / "eval/summary.json").read_text())
    assert summary["checkpoint_sha256"] == read_model(tmp_path)[1]["sha256"]
