"""Recomputed activations: the same training in less memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ranks import run_ranks
from small_models import build, random_images, randomized
from tensor_memory import TensorMemory
from torch import nn

from segzoo.losses.distillation import Teacher
from segzoo.registry import LOSSES, ConfigError

BN_VGG, TIMM = {"batch_norm": True}, ("resnet10t", "test_convnext", "mobilenetv3_small_050")
SLOW_TIMM = ("resnetv2_50", "regnety_002", "efficientnet_b0", "rexnet_100")
CASES = [  # model, backbone and its settings
    ("icnet", "resnet50", {"stem": "deep", "stride_at": "1x1", "width": 0.125}),
    *(
        pytest.param(*case, marks=pytest.mark.integration)
        for case in (("pspnet", "resnet101", {"width": 0.125}), ("fcn", "vgg16", {}))
    ),
    pytest.param("parsenet", "vgg16", BN_VGG, marks=pytest.mark.integration),
    *(pytest.param("pspnet", "timm", {"arch": arch}, marks=pytest.mark.integration) for arch in TIMM),
    *(pytest.param("icnet", "timm", {"arch": arch}, marks=pytest.mark.slow) for arch in SLOW_TIMM),
    pytest.param("fcn", "timm", {"arch": "vgg11_bn"}, marks=pytest.mark.slow),
]


def train_once(model: nn.Module, x: torch.Tensor, label: torch.Tensor, bf16: bool = False) -> tuple[dict[str, torch.Tensor], int]:
    """Run one backward pass.

    Returns:
        Everything that it changes, and its peak bytes.
    """
    loss = LOSSES.build("cross_entropy", model.aux_weights, model.align_corners)
    torch.manual_seed(5)
    with TensorMemory() as memory:
        weights = [tensor.view_as(tensor) for tensor in model.state_dict().values()]  # counted on both sides
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model.train()(x)
        value = loss(logits, label)
        value.backward()
        del weights
    gradients = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    changed = {"loss": value.detach(), "logits": logits.main.detach(), "random": torch.get_rng_state()}
    return {**changed, **model.state_dict(), **gradients}, memory.peak


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    ("model", "backbone", "options"),
    CASES,
    ids=lambda part: part if isinstance(part, str) else "_".join(map(str, part.values())) or "plain",
)
def test_gradients_and_running_statistics_are_exactly_those_without(model, backbone, options):
    if backbone == "timm":
        pytest.importorskip("timm")
    torch.manual_seed(0)
    plain = randomized(build(model, backbone, options=options))
    checkpointed = copy.deepcopy(plain)
    checkpointed.backbone.checkpoint = True
    x, label = random_images(2, 3, 129, 161), torch.randint(0, 5, (2, 129, 161))
    (expected, peak), (actual, lower_peak) = (train_once(each, x, label) for each in (plain, checkpointed))
    assert_equal(actual, expected)
    assert lower_peak < peak
    with torch.no_grad():
        assert torch.equal(plain.eval()(x).main, checkpointed.eval()(x).main)


@pytest.mark.integration
def test_dropout_frozen_stages_and_accumulated_batches_are_exact():
    torch.manual_seed(0)
    plain = randomized(build("icnet"))
    plain.backbone.c4.add_module("dropout", nn.Dropout(0.5))
    plain.backbone.freeze_(["c1", "c2"])
    checkpointed = copy.deepcopy(plain)
    checkpointed.backbone.checkpoint = True
    label = torch.randint(0, 5, (2, 64, 64))
    for bf16 in (False, True):  # gradients add up
        results = [train_once(each, random_images(2, 3, 64, 64), label, bf16)[0] for each in (plain, checkpointed)]
        assert_equal(*results)
    assert "grad backbone.c2.0.conv1.weight" not in results[0] and "grad backbone.c4.0.conv1.weight" in results[0]


class InPlaceBlock(nn.Module):
    """A block that changes its input."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.nn.functional.hardswish(x, inplace=True))


def test_a_block_that_changes_its_input_is_rejected():
    model = build("icnet").train()
    model.backbone.c4.add_module("in_place", InPlaceBlock(model.backbone.channels["c4"]))
    model(random_images(2, 3, 64, 64))
    model.backbone.checkpoint = True
    with pytest.raises(ConfigError, match="InPlaceBlock changes its input in place.*Set backbone.checkpoint=false"):
        model(random_images(2, 3, 64, 64))


@pytest.mark.integration
def test_layers_are_distilled_once_and_not_kept():
    torch.manual_seed(0)
    plain = randomized(build("pspnet"))
    x, terms = random_images(2, 3, 64, 64), []
    for checkpoint in (False, True):
        student = copy.deepcopy(plain).train()
        student.backbone.checkpoint = checkpoint
        teacher = Teacher(copy.deepcopy(plain), 1.0, 2.0, ("backbone.c4.0",), 1.0)
        teacher.attach(student)
        torch.manual_seed(1)
        loss = teacher(x, student(x), lambda network, image: network(image))
        loss.backward()
        assert teacher._features == {"teacher": {}, "student": {}}
        terms.append({"loss": loss.detach(), **{name: p.grad for name, p in student.named_parameters() if p.grad is not None}})
    assert_equal(*terms)


RANKS = """
import torch
from small_models import build, random_images, randomized
from segzoo.distributed import init_distributed

torch.set_num_threads(1)
with init_distributed("cpu") as dist:
    states = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        model = randomized(build("icnet")).train()
        model.backbone.checkpoint = checkpoint
        net = dist.wrap_ddp(model, sync_bn=True)
        for index in range(2):
            with dist.no_sync_until_last(net, index == 1):
                logits = net(random_images(2, 3, 64, 64, seed=2 * index + dist.rank))
                sum(head.square().mean() for head in (logits.main, *logits.aux)).backward()
        states.append({**model.state_dict(), **{"grad " + name: p.grad for name, p in model.named_parameters()}})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    mean = dist.sum(states[1]["grad score.weight"]) / 2
    assert torch.allclose(mean, states[1]["grad score.weight"])  # averaged over the ranks
    print("exact")
"""


@pytest.mark.slow
def test_ranks_with_accumulation_are_exact():
    outputs: list[Any] = run_ranks(RANKS)
    assert all(output.splitlines()[-1] == "exact" for output in outputs)
