"""Weights of a wider network, narrowed as the pruner ranks channels."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
import torchvision
from varied_networks import varied_
from weight_files import write_run

from segzoo.api import create_model
from segzoo.pruning._base import NoCalibration
from segzoo.registry import INITS, PRUNERS, ConfigError
from segzoo.types import DatasetInfo

CLASSES = ("a", "b", "c")
INFO = DatasetInfo("toy", CLASSES, ((0, 0, 0),) * 3)


@cache
def seeded(model, width, stem="deep", seed=0):
    torch.manual_seed(seed)
    return varied_(create_model(model, backbone={"name": "resnet50", "width": width, "stem": stem}, num_classes=3))


def network(*args, **options):
    return copy.deepcopy(seeded(*args, **options))


def largest(importance, count):
    return sorted(range(len(importance)), key=importance.tolist().__getitem__, reverse=True)[:count]


@pytest.mark.integration
@pytest.mark.parametrize("model", ["icnet", "pspnet"])
def test_half_the_width_equals_the_pruner(model):
    """PSPNet concatenates the backbone's output with pooled maps."""
    wide, narrow = network(model, 0.25), seeded(model, 0.125)
    state = narrow.narrow_state_dict(wide.state_dict())
    PRUNERS.build("l1", keep_ratio=0.5).prune_(wide, 0.5, NoCalibration())
    assert {name: tensor.shape for name, tensor in state.items()} == {k: v.shape for k, v in narrow.state_dict().items()}
    assert all(torch.equal(tensor, state[name]) for name, tensor in wide.state_dict().items())


def test_maps_that_are_concatenated_repeatedly_are_narrowed():
    """Without reduction, PSPNet concatenates the backbone's output and what is pooled from it."""
    wide, narrow = (
        create_model("pspnet", backbone={"name": "resnet50", "width": width}, num_classes=3, reduce=False, bins=(1, 2))
        for width in (0.25, 0.125)
    )
    state = narrow.narrow_state_dict(varied_(wide).state_dict())
    assert {name: tensor.shape for name, tensor in state.items()} == {k: v.shape for k, v in narrow.state_dict().items()}
    terms = [tensor for name, tensor in wide.state_dict().items() if name.startswith("backbone.c5.") and "conv3.weight" in name]
    terms.append(wide.get_parameter("backbone.c5.0.downsample.0.weight"))
    tied = sorted(largest(sum(torch.linalg.vector_norm(term.flatten(1), 1, 1).double() for term in terms), 256))
    weight = wide.get_parameter("fuse.conv.weight")
    rows = sorted(largest(torch.linalg.vector_norm(weight.flatten(1), 1, 1), 64))
    expected = torch.cat([block[:, tied] for block in weight[rows].split(512, 1)], 1)
    assert torch.equal(state["fuse.conv.weight"], expected)


def test_kept_channels_have_the_largest_filters():
    wide, narrow = seeded("icnet", 0.25).state_dict(), seeded("icnet", 0.125)
    state = narrow.narrow_state_dict(wide)
    first = wide["backbone.c4.1.conv1.weight"]
    rows = sorted(largest(torch.linalg.vector_norm(first.flatten(1), 1, 1), 32))
    terms = [
        name for name in wide if name.startswith("backbone.c4.") and (".conv3.weight" in name or ".downsample.0.weight" in name)
    ]
    importance = sum(torch.linalg.vector_norm(wide[name].flatten(1), 1, 1).double() for name in terms)
    tied = sorted(largest(importance, 128))  # the sum of all blocks of a stage
    assert len(terms) == 7 and tied != list(range(128))
    assert torch.equal(state["backbone.c4.1.conv1.weight"], first[rows][:, tied])
    assert torch.equal(state["backbone.c4.1.bn1.running_var"], wide["backbone.c4.1.bn1.running_var"][rows])
    assert torch.equal(state["backbone.c4.5.bn3.weight"], wide["backbone.c4.5.bn3.weight"][tied])
    reads = wide["backbone.c5.0.conv1.weight"]
    rows = sorted(largest(torch.linalg.vector_norm(reads.flatten(1), 1, 1), 64))
    assert torch.equal(state["backbone.c5.0.conv1.weight"], reads[rows][:, tied])


@pytest.mark.integration
def test_equal_width_is_the_identity():
    wide = seeded("icnet", 0.25).state_dict()
    state = seeded("icnet", 0.25, seed=1).narrow_state_dict(wide)
    assert list(state) == list(wide) and all(torch.equal(state[name], tensor) for name, tensor in wide.items())


@pytest.mark.integration
def test_a_run_of_another_width_with_other_classes(tmp_path, capsys):
    wide, narrow = seeded("icnet", 0.25), network("icnet", 0.125, seed=1)
    run = str(write_run(tmp_path, wide.state_dict(), INFO))
    initial = narrow.score.weight.clone()
    with pytest.raises(ConfigError, match=r"Set backbone.width=0.25, or .*init.narrow=l1, which keeps"):
        INITS.build("checkpoint", narrow, ("c", "x", "a"), ckpt=run)
    report = INITS.build("checkpoint", narrow, ("c", "x", "a"), ckpt=run, narrow="l1")
    assert report.fraction == 1 and "narrowed by the L1 norm of filters" in capsys.readouterr().out
    expected = narrow.narrow_state_dict(wide.state_dict())
    assert torch.equal(narrow.backbone.c4[1].conv1.weight, expected["backbone.c4.1.conv1.weight"])
    assert torch.equal(narrow.score.weight[[0, 2]], expected["score.weight"][[2, 0]])
    assert torch.equal(narrow.score.weight[1], initial[1])
    (tmp_path / "narrow").mkdir()
    narrower = str(write_run(tmp_path / "narrow", narrow.state_dict(), INFO))
    with pytest.raises(
        ConfigError, match=r"only \d.\d% of the backbone's parameters match.*\n.*of width 0.125.*this is.*of width 0.25"
    ):
        INITS.build("checkpoint", network("icnet", 0.25), CLASSES, ckpt=narrower, narrow="l1")


@pytest.mark.integration
@pytest.mark.parametrize(("stem", "initialized"), [pytest.param("basic", (), marks=pytest.mark.slow), ("deep", ("backbone.c1.",))])
def test_weights_of_torchvision(tmp_path, monkeypatch, stem, initialized):
    """A half-width deep stem has as many channels as the basic one."""
    torch.manual_seed(0)
    state = torchvision.models.resnet50().state_dict()
    model = network("icnet", 0.5, stem=stem)
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda self, **options: state)
    with pytest.raises(ConfigError, match=r"init.ckpt=imagenet.*Set backbone.weights=imagenet, or init.narrow=l1"):
        INITS.build("checkpoint", model, CLASSES, ckpt="imagenet")
    report = INITS.build("checkpoint", model, CLASSES, ckpt="imagenet", narrow="l1")
    missing = [name for name in report.reinitialized if name.startswith("backbone.")]
    assert all(name.startswith(initialized) for name in missing) and bool(missing) == bool(initialized)
    terms = [name for name in state if name.startswith("layer4.") and name.endswith(("conv3.weight", "downsample.0.weight"))]
    tied = largest(sum(torch.linalg.vector_norm(state[name].flatten(1), 1, 1).double() for name in terms), 1024)
    assert torch.equal(model.backbone.c5[2].bn3.weight, state["layer4.2.bn3.weight"][sorted(tied)])
    torch.save(state, tmp_path / "resnet50.pth")
    again = network("icnet", 0.5, stem=stem, seed=1)
    INITS.build("checkpoint", again, CLASSES, ckpt=str(tmp_path / "resnet50.pth"), narrow="l1")
    assert all(torch.equal(model.state_dict()[name], again.state_dict()[name]) for name in report.loaded)


def test_what_cannot_be_narrowed_is_rejected():
    depthwise = create_model("fcn", backbone={"name": "timm", "arch": "mobilenetv3_small_050"}, num_classes=3)
    with pytest.raises(ConfigError, match=r"init.narrow=l1: .*conv_dw is a grouped convolution.*Set init.narrow=none"):
        depthwise.narrow_state_dict(depthwise.state_dict())
    with pytest.raises(ConfigError, match="the published weights have width 1, this resnet50 has width 1.5"):
        with torch.device("meta"):
            model = create_model("fcn", backbone={"name": "resnet50", "width": 1.5}, num_classes=3)
        INITS.build("checkpoint", model, CLASSES, ckpt="imagenet", narrow="l1")
