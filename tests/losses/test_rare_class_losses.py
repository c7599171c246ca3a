"""Focal, Dice, Tversky, Lovász and summed losses against other libraries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_losses import CLASSES, NAMES, SUM, WEIGHTS, build, gradients, random_batch
from torchvision.ops import sigmoid_focal_loss
from toy_training import Toy, make_components, make_run_dir, read_rows, settings, train

from segzoo.layers import resize
from segzoo.registry import LOSSES, ConfigError
from segzoo.types import Logits

REGION = ("dice", "tversky", "lovasz")
LABELS = st.lists(st.sampled_from([0, 1, 2, 3, 4, 255]), min_size=12, max_size=12)


def smp_loss(name: str, **options: Any):
    smp = pytest.importorskip("segmentation_models_pytorch", reason="needs the extra 'peers'")
    return getattr(smp.losses, name)(mode="multiclass", ignore_index=255, **options)


def upsample(logits, label):
    return F.interpolate(logits.main, label.shape[1:], mode="bilinear", align_corners=False)


def assert_same(loss, expected, logits):
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients(loss, logits.main), gradients(expected, logits.main), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("chunk", [1, 2**24], ids=["row_by_row", "one_chunk"])
@pytest.mark.parametrize(
    ("name", "settings", "smp_name", "options"),
    [
        ("dice", {}, "DiceLoss", {}),
        ("dice", {"class_weights": WEIGHTS}, "DiceLoss", {"class_weights": list(WEIGHTS)}),
        ("tversky", {}, "TverskyLoss", {"alpha": 0.3, "beta": 0.7}),
        ("tversky", {"alpha": 1.0, "beta": 0.0}, "TverskyLoss", {"alpha": 1.0, "beta": 0.0}),
        ("lovasz", {}, "LovaszLoss", {}),
    ],
)
def test_equal_to_segmentation_models_pytorch_over_a_batch(monkeypatch, chunk, name, settings, smp_name, options):
    monkeypatch.setattr(resize, "CPU_ELEMENTS", chunk)
    logits, label = random_batch()
    expected = smp_loss(smp_name, **options)(upsample(logits, label), label.long())
    assert_same(build(name, per="batch", **settings)(logits, label), expected, logits)


@pytest.mark.parametrize(("name", "smp_name"), [("dice", "DiceLoss"), ("lovasz", "LovaszLoss")])
def test_equal_to_their_mean_over_images(name, smp_name):
    logits, label = random_batch(images=4)
    assert all(len(set(image[image != 255].tolist())) == CLASSES for image in label)  # otherwise their means over classes differ
    reference, upsampled = smp_loss(smp_name), upsample(logits, label)
    expected = torch.stack([reference(upsampled[i : i + 1], label[i : i + 1].long()) for i in range(4)]).mean()
    assert_same(build(name)(logits, label), expected, logits)


def test_dice_of_absent_classes_is_left_out_of_the_mean():
    """In segmentation-models-pytorch they count as classes without loss."""
    logits, label = random_batch(images=1)
    label[label > 2] = 1  # two of five classes are absent
    expected = smp_loss("DiceLoss")(upsample(logits, label), label.long()) * CLASSES / 3
    assert_same(build("dice")(logits, label), expected, logits)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_equals_torchvision_on_the_log_odds_of_the_true_class(gamma):
    logits, label = random_batch()
    valid, upsampled = label != 255, upsample(logits, label)
    log_p = upsampled.log_softmax(1).gather(1, torch.where(valid, label, 0).long()[:, None])[:, 0]
    log_odds = (log_p - torch.log(-torch.expm1(log_p)))[valid]  # its sigmoid is the probability of the true class
    losses = sigmoid_focal_loss(log_odds, torch.ones_like(log_odds), alpha=-1, gamma=gamma)
    assert_same(build("focal", gamma=gamma)(logits, label), losses.mean(), logits)
    class_weights = torch.tensor(WEIGHTS)[label[valid].long()]
    weighted = build("focal", gamma=gamma, class_weights=WEIGHTS)(logits, label)
    assert_same(weighted, (losses * class_weights).sum() / class_weights.sum(), logits)


def test_focal_of_two_classes_equals_segmentation_models_pytorch():
    smp = pytest.importorskip("segmentation_models_pytorch", reason="needs the extra 'peers'")
    logits, label = random_batch()
    label[label < 255] %= 2
    two = Logits(logits.main[:, :2])
    difference = upsample(two, label)
    expected = smp.losses.FocalLoss("binary", ignore_index=255, gamma=2.0)(difference[:, 1] - difference[:, 0], label.long())
    assert_same(build("focal")(two, label), expected, two)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_focal_has_a_finite_gradient_at_certain_pixels(gamma):
    logits, label = random_batch()
    certain = Logits((logits.main.detach() * 1000).requires_grad_())
    loss = build("focal", gamma=gamma)(certain, label)
    assert gradients(loss, certain.main)[0].isfinite().all()
    expected = build()(logits, label)
    torch.testing.assert_close(build("focal", gamma=0.0)(logits, label), expected)


@pytest.mark.parametrize("name", [name for name in LOSSES.names() if name != "ohem"])  # its choice of pixels is a step function
@pytest.mark.parametrize("resolution", ["label", "logits"])
def test_gradients_equal_finite_differences(name, resolution):
    logits, label = random_batch(images=2, size=(6, 5), small=(3, 4))
    loss = build(name, resolution=resolution, class_weights=(0.5, 2.0, 1.0, 1.0, 3.5))
    exact = logits.main.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda main: loss(Logits(main), label), exact, fast_mode=True)


@given(LABELS, LABELS, st.sampled_from(REGION), st.sampled_from(["image", "batch"]), st.integers(0, 99))
@hypothesis_settings(max_examples=60, deadline=None)
def test_region_losses_are_fractions_of_the_errors(first, second, name, per, seed):
    label = torch.tensor([first, second], dtype=torch.uint8).view(2, 3, 4)
    logits = torch.randn(2, CLASSES, 3, 4, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    loss = build(name, per=per)
    value = loss(Logits(logits), label)
    assert 0 <= value.item() <= 1 and gradients(value, logits)[0].isfinite().all()
    hot = F.one_hot(torch.where(label == 255, 0, label).long(), CLASSES).movedim(3, 1) * 200.0
    assert loss(Logits(hot), label).item() == pytest.approx(0, abs=1e-6)  # the labels themselves
    if (label != 255).any():
        assert loss(Logits(hot.roll(1, 1)), label).item() == pytest.approx(1)  # the next class at every pixel


@given(LABELS, st.integers(0, 99))
@hypothesis_settings(max_examples=60, deadline=None)
def test_lovasz_of_certain_predictions_is_one_minus_the_iou(values, seed):
    label = torch.tensor(values, dtype=torch.uint8).view(1, 3, 4)
    predicted = torch.randint(0, CLASSES, label.shape, generator=torch.Generator().manual_seed(seed))
    valid, ious = label != 255, []
    for train_id in set(values) - {255}:
        labeled, hit = (label == train_id), (label == train_id) & (predicted == train_id)
        ious.append(hit.sum() / (labeled | ((predicted == train_id) & valid)).sum())
    value = build("lovasz")(Logits(F.one_hot(predicted, CLASSES).movedim(3, 1) * 200.0), label)
    assert value.item() == pytest.approx(1 - float(torch.stack(ious).mean()) if ious else 0, abs=1e-6)


def test_a_sum_adds_its_losses_with_weights_and_settings():
    logits, label = random_batch(heads=2)
    settings = {"tversky": {"beta": 0.9, "class_weights": [1, 1, 1, 1, 0]}, "cross_entropy": {"label_smoothing": 0.1}}
    loss = build("weighted_sum", (0.4,), weights={"tversky": 2.0, "cross_entropy": 0.5}, settings=settings, class_weights=WEIGHTS)
    tversky = build("tversky", (0.4,), beta=0.9, class_weights=(1.0, 1.0, 1.0, 1.0, 0.0))
    cross_entropy = build(aux=(0.4,), label_smoothing=0.1, class_weights=WEIGHTS)
    torch.testing.assert_close(loss(logits, label), 2 * tversky(logits, label) + 0.5 * cross_entropy(logits, label))
    assert loss.resolution == "label" and loss.weight(label, logits).shape == (4,)
    mixed = build("weighted_sum", weights={"dice": 1.0, "focal": 1.0}, settings={"focal": {"resolution": "logits"}})
    assert mixed.resolution == "logits"


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ({"weights": {"dicee": 1.0, "dice": 1.0}}, ["unknown loss in loss.weights 'dicee'", "Did you mean 'dice'"]),
        ({"weights": {"weighted_sum": 1.0}}, ["'weighted_sum'"]),
        ({"weights": {}}, ["loss.weights is empty"]),
        ({"weights": {"dice": 0.0}}, ["above 0"]),
        (
            {"weights": {"dice": 1.0}, "settings": {"focal": {}, "dice": {"gama": 1, "per": "imag"}}},
            ["'focal'", "loss.settings.dice.gama", "loss.settings.dice.per='imag'", "Did you mean 'image'"],
        ),
    ],
    ids=str,
)
def test_invalid_sums_are_rejected_with_all_errors(settings, messages):
    with pytest.raises(ConfigError) as caught:
        LOSSES.build("weighted_sum", (), False, **settings)
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.parametrize(("name", "settings"), [("ohem", {"threshold": 0, "min_kept": 0}), ("tversky", {"alpha": 0, "beta": 0})])
def test_a_loss_that_is_always_zero_is_rejected(name, settings):
    with pytest.raises(ConfigError, match="are both 0, so .* there is no loss. Set one above 0"):
        build(name, **settings)
    for key in settings:
        build(name, **settings | {key: 0.5})


def test_automatic_weights_need_labels():
    with pytest.raises(ConfigError, match="loss.class_weights=auto needs the labels"):
        build("dice", class_weights="auto")


@pytest.mark.parametrize("name", NAMES)
def test_accumulation_trains_like_one_large_batch(tmp_path, name):
    def run(directory, **changed):
        loss = LOSSES.build(name, (0.4,), False, **(SUM if name == "weighted_sum" else {}))
        torch.manual_seed(7)
        components = make_components(model=Toy(norm=False, drop=0.0), loss=loss)
        train(components, make_run_dir(tmp_path / directory), **settings(steps=2, eval_every=2, log_every=1, **changed))
        losses = [row["loss"] for row in read_rows(tmp_path / directory, "train", "val")]
        return components.model.state_dict(), losses

    whole, losses = run("whole", batch_size=6)
    parts, part_losses = run("parts", batch_size=2, grad_accum_steps=3)  # a third of the images is half ignored
    assert len(losses) == 3 and part_losses == pytest.approx(losses, rel=1e-4)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-4, atol=1e-6)
