"""A teacher's term of the loss: its formula, its errors, and trainings that are split or stopped."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from toy_training import INFO, Toy, ToyData, make_components, make_run_dir, settings, train, weights_hash

from segzoo.data.dataset_info import make_dataset_info
from segzoo.layers.pyramid_pooling import PyramidPooling
from segzoo.losses.distillation import Teacher, _distance, check_layers
from segzoo.registry import DISTILLS, ConfigError
from segzoo.types import Logits


class Net(nn.Module):
    """One convolution whose channels may be any number, then class scores."""

    def __init__(self, channels: int):
        super().__init__()
        self.maps, self.head = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.Conv2d(channels, 4, 1)

    def forward(self, x):
        return Logits(self.head(self.maps(x)), ())


def term(student, net, x, **words):
    teacher = Teacher(net, **{"weight": 1.0, "temperature": 1.0, "layers": (), "layer_weight": 1.0} | words)
    teacher.attach(student)
    return teacher(x, student.train()(x), lambda net, x: net(x))


@tuned(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.5, 8.0))
def test_scores_are_compared_as_torchs_divergence_does(seed, temperature):
    torch.manual_seed(seed)
    student, net, x = Net(5), Net(7), torch.randn(2, 3, 6, 5)
    ours, theirs = (model(x).main.permute(0, 2, 3, 1).reshape(-1, 4) / temperature for model in (student, net))
    wanted = temperature**2 * F.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="batchmean")
    torch.testing.assert_close(term(student, net, x, temperature=temperature), wanted)
    assert term(net, net, x).abs() < 1e-6


def test_attention_maps_forget_channels_and_scale_and_reach_the_student_alone():
    torch.manual_seed(0)
    student, net, x = Net(5), Net(7), torch.randn(2, 3, 6, 5)
    apart = term(student, net, x, weight=0.0, layers=("maps",))
    one, other = (F.normalize(model.maps(x).square().mean(1).flatten(1), dim=1) for model in (student, net))
    torch.testing.assert_close(apart, (one - other).square().sum(1).mean())
    apart.backward()
    assert student.maps.weight.grad is not None and net.maps.weight.grad is None
    assert student.maps.weight.grad.abs().sum() > 0
    louder = Net(10)
    louder.maps.weight.data = 3 * student.maps.weight.data.repeat(2, 1, 1, 1)
    assert term(student, louder, x, weight=0.0, layers=("maps",)) < 1e-6


def test_a_run_with_a_teacher_resumes_bit_for_bit(tmp_path):
    class Stopping(ToyData):
        reads = 0

        def __getitem__(self, index):
            Stopping.reads += 1
            if Stopping.reads == 26:
                signal.raise_signal(signal.SIGTERM)
            return super().__getitem__(index)

    def run(folder, train_set=None, weight=1.0):
        parts = make_components(train_set=train_set)
        torch.manual_seed(11)
        parts.distill = Teacher(Toy(), weight, 2.0, ("backbone.0",), 1.0)
        train(parts, make_run_dir(folder), **settings())
        return weights_hash(parts.model)

    wanted = run(tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tmp_path / "parts", Stopping(10))
    assert run(tmp_path / "parts") == wanted != run(tmp_path / "other", weight=2.0)


def test_a_split_batch_is_taught_the_same(tmp_path):
    def weights(folder, **words):
        parts = make_components(train_set=ToyData(9))
        torch.manual_seed(3)
        parts.model, net = Toy(norm=False, drop=0.0), Toy(norm=False)
        parts.distill = Teacher(net, 5.0, 2.0, ("backbone.0",), 5.0)
        train(parts, make_run_dir(tmp_path / folder), **settings(steps=4, **words))
        return torch.cat([p.detach().flatten() for p in parts.model.parameters()])

    joint = weights("joint", batch_size=6, grad_accum_steps=1)
    torch.testing.assert_close(weights("parts", batch_size=2, grad_accum_steps=3), joint, atol=1e-6, rtol=1e-5)


def test_a_teacher_sees_pictures_as_it_learnt_from_them():
    torch.manual_seed(1)
    net, x = Net(7).eval(), torch.rand(2, 3, 6, 5) * 255
    own = make_dataset_info("own", INFO.classes, None, (100.0, 120.0, 90.0), (50.0, 60.0, 70.0))
    teacher: Any = DISTILLS.build("teacher", lambda ckpt: (net, own), INFO, ckpt="run")
    ours, theirs = ((x - x.new_tensor(info.mean).view(3, 1, 1)) / x.new_tensor(info.std).view(3, 1, 1) for info in (INFO, own))
    seen = []
    teacher(ours, net(ours), lambda net, x: seen.append(x) or net(x))
    torch.testing.assert_close(seen[0], theirs)


def test_each_of_several_maps_is_compared_and_frozen_layers_are_seen():
    class Several(Net):
        def __init__(self, channels):
            super().__init__(channels)
            self.pool = PyramidPooling((1, 2, 3))

        def forward(self, x):
            maps = self.maps(x)
            self.pool(maps)
            return Logits(self.head(maps), ())

    torch.manual_seed(0)
    student, net, x = Several(5), Several(7), torch.randn(2, 3, 6, 5)
    apart = term(student, net, x, weight=0.0, layers=("pool",))
    pools = [model.pool(model.maps(x)) for model in (student, net)]
    wanted = [_distance(one, other) for one, other in zip(*pools, strict=True)]
    torch.testing.assert_close(apart, torch.stack(wanted).mean())
    check_layers(student, net, ("pool", "maps"), x)

    teacher = Teacher(net, 0.0, 1.0, ("maps",), 1.0)
    teacher.attach(student)
    student.train().maps.eval()  # as a frozen stage is
    assert teacher(x, student(x), lambda net, x: net(x)) > 0


def test_layers_that_do_not_answer_alike_are_refused():
    class Unused(Net):
        def forward(self, x):
            return Logits(self.head(F.conv2d(x, self.maps.weight, padding=1)), ())

    x = torch.randn(1, 3, 6, 5)
    with pytest.raises(ConfigError, match=r"Unused never runs, as a whole, 'maps'\. Name a layer"):
        check_layers(Net(4), Unused(4), ("maps",), x)
    few, many = Net(4), Net(4)
    many.maps.register_forward_hook(lambda module, given, made: [made, made])
    many.head.register_forward_pre_hook(lambda module, given: given[0][0])
    with pytest.raises(ConfigError, match="'maps' answers 1 maps in the network that learns and 2 in the teacher"):
        check_layers(few, many, ("maps",), x)


def test_a_teacher_that_cannot_teach_is_refused():
    def load(ckpt):
        return Toy(), make_dataset_info("other", ("x", "y", "z"), None, (0, 0, 0), (1, 1, 1))

    with pytest.raises(ConfigError, match="whose network teaches"):
        DISTILLS.build("teacher", load, INFO)
    with pytest.raises(ConfigError, match="knows the classes x, y, z"):
        DISTILLS.build("teacher", load, INFO, ckpt="run")
    with pytest.raises(ConfigError, match="Toy has no layer 'backbone.o'. Did you mean 'backbone"):
        Teacher(Toy(), 1.0, 1.0, ("backbone.o",), 1.0).attach(Toy())
