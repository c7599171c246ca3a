"""Distillation: formulas, errors, and split or resumed trainings."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from toy_training import INFO, Toy, ToyData, make_components, make_run_dir, settings, train, weights_hash

from segzoo.data.dataset_info import make_dataset_info
from segzoo.distributed import Distributed, sync_batch_norm
from segzoo.layers.pyramid_pooling import PyramidPooling
from segzoo.losses.distillation import Teacher, _attention_distance, _feature_maps, check_layers
from segzoo.registry import DISTILLS, ConfigError
from segzoo.types import Logits


class Net(nn.Module):
    """A convolution with any number of channels, and a classifier."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.Conv2d(channels, 4, 1)

    def forward(self, x):
        return Logits(self.head(self.conv(x)), ())


def run(network, x):
    return network(x)


def distillation_loss(student, network, x, **settings):
    teacher = Teacher(network, **{"weight": 1.0, "temperature": 1.0, "layers": (), "layer_weight": 1.0} | settings)
    teacher.attach(student)
    return teacher(x, student.train()(x), run)


@hypothesis_settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.5, 8.0))
def test_logit_loss_equals_torchs_kl_divergence(seed, temperature):
    torch.manual_seed(seed)
    student, network, x = Net(5), Net(7), torch.randn(2, 3, 6, 5)
    pixels, teacher_pixels = (model(x).main.permute(0, 2, 3, 1).reshape(-1, 4) / temperature for model in (student, network))
    expected = temperature**2 * F.kl_div(pixels.log_softmax(1), teacher_pixels.softmax(1), reduction="batchmean")
    torch.testing.assert_close(distillation_loss(student, network, x, temperature=temperature), expected)
    assert distillation_loss(network, network, x).abs() < 1e-6


def test_attention_loss_ignores_channels_and_scale_and_trains_the_student_only():
    torch.manual_seed(0)
    student, network, x = Net(5), Net(7), torch.randn(2, 3, 6, 5)
    loss = distillation_loss(student, network, x, weight=0.0, layers=("conv",))
    attention, teacher_attention = (F.normalize(model.conv(x).square().mean(1).flatten(1), dim=1) for model in (student, network))
    torch.testing.assert_close(loss, (attention - teacher_attention).square().sum(1).mean())
    loss.backward()
    assert student.conv.weight.grad is not None and network.conv.weight.grad is None
    assert student.conv.weight.grad.abs().sum() > 0
    scaled = Net(10)
    scaled.conv.weight.data = 3 * student.conv.weight.data.repeat(2, 1, 1, 1)
    assert distillation_loss(student, scaled, x, weight=0.0, layers=("conv",)) < 1e-6


def test_a_teacher_of_another_stride_is_resized_to_the_student():
    class Strided(Net):
        def forward(self, x):
            return super().forward(F.avg_pool2d(x, 2))

    torch.manual_seed(0)
    student, network, x = Net(5), Strided(7), torch.randn(2, 3, 6, 5)
    features = F.interpolate(network.conv(F.avg_pool2d(x, 2)), (6, 5), mode="bilinear", align_corners=False)
    teacher_logits = F.interpolate(network(x).main, (6, 5), mode="bilinear", align_corners=False)
    pixels, teacher_pixels = (logits.permute(0, 2, 3, 1).reshape(-1, 4) for logits in (student(x).main, teacher_logits))
    expected = F.kl_div(pixels.log_softmax(1), teacher_pixels.softmax(1), reduction="batchmean")
    torch.testing.assert_close(distillation_loss(student, network, x), expected)
    loss = distillation_loss(student, network, x, weight=0.0, layers=("conv",))
    attention, teacher_attention = (F.normalize(maps.square().mean(1).flatten(1)) for maps in (student.conv(x), features))
    torch.testing.assert_close(loss, (attention - teacher_attention).square().sum(1).mean())


def test_a_teacher_of_another_stride_keeps_aligned_corners():
    """The corners of both grids are the same pixels."""

    class Ramp(nn.Module):
        align_corners = True

        def __init__(self, side: int):
            super().__init__()
            self.side, self.scale = side, nn.Parameter(torch.ones(()))

        def forward(self, x):
            ramp = self.scale * torch.linspace(-3, 3, self.side)
            return Logits(torch.stack([ramp, -ramp])[None, :, None].expand(1, 2, self.side, self.side), ())

    x = torch.zeros(1, 3, 65, 65)
    assert distillation_loss(Ramp(17), Ramp(9), x) < 1e-10 and distillation_loss(Ramp(9), Ramp(17), x) < 1e-10


@pytest.mark.parametrize(("side", "teacher_side"), [(9, 8), (9, 9), (64, 9), (9, 64)])
@pytest.mark.parametrize("aligned", [False, True])
def test_a_teacher_of_another_alignment_is_compared_at_the_same_pixels(side, teacher_side, aligned):
    """Where the networks see the same scene, the scores of both are those of its pixels."""

    class Scene(nn.Module):
        def __init__(self, side: int, align_corners: bool):
            super().__init__()
            self.side, self.align_corners, self.scale = side, align_corners, nn.Parameter(torch.ones(()))

        def forward(self, x):
            step = torch.arange(float(self.side))
            pixel = step * 63 / (self.side - 1) if self.align_corners else (step + 0.5) * 64 / self.side - 0.5
            ramp = self.scale * (6 * pixel / 64 - 3).expand(self.side, self.side)
            return Logits(torch.stack([ramp, ramp.T])[None], ())

    teacher = Teacher(Scene(teacher_side, not aligned), 1.0, 1.0, (), 1.0)
    student, x = Scene(side, aligned), torch.zeros(1, 3, 64, 64)
    teacher.attach(student)
    expected = F.interpolate(teacher.network(x).main, (64, 64), mode="bilinear", align_corners=not aligned)
    expected = F.interpolate(expected, (side, side), mode="bilinear", align_corners=aligned)
    pixels, teacher_pixels = (logits[0].log_softmax(0) for logits in (student(x).main, expected))
    divergence = F.kl_div(pixels, teacher_pixels, reduction="none", log_target=True).sum(0)
    torch.testing.assert_close(teacher(x, student(x), run), divergence.mean())
    inside = slice(
        side // 8 + 1, -(side // 8) - 1
    )  # beyond the outermost centers, grids without aligned corners repeat their border
    assert divergence[inside, inside].max() < 1e-6


@pytest.mark.integration
def test_a_run_with_a_teacher_resumes_bit_for_bit(tmp_path):
    class Stopping(ToyData):
        reads = 0

        def __getitem__(self, index):
            Stopping.reads += 1
            if Stopping.reads == 26:
                signal.raise_signal(signal.SIGTERM)
            return super().__getitem__(index)

    def run_training(path, train_set=None, weight=1.0):
        components = make_components(train_set=train_set)
        torch.manual_seed(11)
        components.distill = Teacher(Toy(), weight, 2.0, ("backbone.0",), 1.0)
        train(components, make_run_dir(path), **settings())
        return weights_hash(components.model)

    expected = run_training(tmp_path / "whole")
    with pytest.raises(SystemExit):
        run_training(tmp_path / "stopped", Stopping(10))
    assert run_training(tmp_path / "stopped") == expected != run_training(tmp_path / "other", weight=2.0)


def test_a_split_batch_distills_the_same(tmp_path):
    def trained_weights(name, **changes):
        components = make_components(train_set=ToyData(9))
        torch.manual_seed(3)
        components.model, network = Toy(norm=False, drop=0.0), Toy(norm=False)
        components.distill = Teacher(network, 5.0, 2.0, ("backbone.0",), 5.0)
        train(components, make_run_dir(tmp_path / name), **settings(steps=4, **changes))
        return torch.cat([p.detach().flatten() for p in components.model.parameters()])

    expected = trained_weights("whole", batch_size=6, grad_accum_steps=1)
    torch.testing.assert_close(trained_weights("split", batch_size=2, grad_accum_steps=3), expected, atol=1e-6, rtol=1e-5)


def test_a_teacher_gets_its_own_normalization():
    torch.manual_seed(1)
    network, x = Net(7).eval(), torch.rand(2, 3, 6, 5) * 255
    teacher_info = make_dataset_info("own", INFO.classes, None, (100.0, 120.0, 90.0), (50.0, 60.0, 70.0))
    teacher: Any = DISTILLS.build("teacher", lambda ckpt: (network, teacher_info), INFO, ckpt="run")
    student_x, teacher_x = (
        (x - x.new_tensor(info.mean).view(3, 1, 1)) / x.new_tensor(info.std).view(3, 1, 1) for info in (INFO, teacher_info)
    )
    inputs = []
    teacher(student_x, network(student_x), lambda network, x: inputs.append(x) or network(x))
    torch.testing.assert_close(inputs[0], teacher_x)


def test_every_feature_map_of_a_layer_and_frozen_layers_are_compared():
    class PyramidNet(Net):
        def __init__(self, channels):
            super().__init__(channels)
            self.pool = PyramidPooling((1, 2, 3))

        def forward(self, x):
            features = self.conv(x)
            self.pool(features)
            return Logits(self.head(features), ())

    torch.manual_seed(0)
    student, network, x = PyramidNet(5), PyramidNet(7), torch.randn(2, 3, 6, 5)
    loss = distillation_loss(student, network, x, weight=0.0, layers=("pool",))
    pooled = [model.pool(model.conv(x)) for model in (student, network)]
    expected = [_attention_distance(student_map, teacher_map, False) for student_map, teacher_map in zip(*pooled, strict=True)]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    check_layers(student, network, ("pool", "conv"), x)

    teacher = Teacher(network, 0.0, 1.0, ("conv",), 1.0)
    teacher.attach(student)
    student.train().conv.eval()  # like a frozen stage
    assert teacher(x, student(x), run) > 0


def test_layers_whose_outputs_cannot_be_compared_are_rejected():
    class Unused(Net):
        def forward(self, x):
            return Logits(self.head(F.conv2d(x, self.conv.weight, padding=1)), ())

    x = torch.randn(1, 3, 6, 5)
    with pytest.raises(ConfigError, match=r"Unused never calls 'conv' as a whole\. Use a layer"):
        check_layers(Net(4), Unused(4), ("conv",), x)
    few, many = Net(4), Net(4)
    many.conv.register_forward_hook(lambda module, inputs, output: [output, output])
    many.head.register_forward_pre_hook(lambda module, inputs: inputs[0][0])
    with pytest.raises(ConfigError, match="'conv' outputs 1 feature maps in the student and 2 in the teacher"):
        check_layers(few, many, ("conv",), x)


def test_a_layer_inside_a_container_is_suggested():
    class Blocks(Net):
        def __init__(self):
            super().__init__(4)
            self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])

        def forward(self, x):
            return Logits(self.head(self.blocks[1](self.blocks[0](self.conv(x)))), ())

    with pytest.raises(ConfigError, match=r"never calls 'blocks' as a whole\. Use a layer inside it, such as blocks\.1\."):
        check_layers(Blocks(), Blocks(), ("blocks",), torch.randn(1, 3, 6, 5))


def test_feature_maps_are_found_in_every_container():
    one, two, vector = torch.zeros(1, 2, 3, 3), torch.ones(1, 4, 3, 3), torch.ones(1, 4)
    for output in ({"a": one, "b": vector, "c": two}, [one, vector, two], (one, None, two)):
        first, second = _feature_maps(output)
        assert first is one and second is two
    assert _feature_maps(one)[0] is one and not _feature_maps(vector)


def test_unusable_teachers_are_rejected():
    def load(ckpt):
        return Toy(), make_dataset_info("other", ("x", "y", "z"), None, (0, 0, 0), (1, 1, 1))

    with pytest.raises(ConfigError, match="needs a teacher"):
        DISTILLS.build("teacher", load, INFO)
    with pytest.raises(ConfigError, match="was trained on the classes x, y, z"):
        DISTILLS.build("teacher", load, INFO, ckpt="run")
    with pytest.raises(ConfigError, match="Toy has no layer 'backbone.o'. Did you mean 'backbone"):
        Teacher(Toy(), 1.0, 1.0, ("backbone.o",), 1.0).attach(Toy())


def test_layers_whose_batch_norms_are_replaced_are_distilled(tmp_path, monkeypatch):
    """On several GPUs, SyncBN takes the place of batch norm before the first step."""
    monkeypatch.setattr(Distributed, "wrap_ddp", lambda self, model, sync_bn: sync_batch_norm(model))
    components = make_components()
    components.distill = Teacher(Toy(), weight=1.0, temperature=1.0, layers=("backbone.1",), layer_weight=1.0)
    assert train(components, make_run_dir(tmp_path), **settings(steps=2))["finished"]
    assert isinstance(components.model.get_submodule("backbone.1"), nn.SyncBatchNorm)
