"""Initializing whole models from a checkpoint."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from weight_files import loadable_names, write_run

from segzoo.registry import BACKBONES, INITS, MODELS, ConfigError
from segzoo.types import DatasetInfo
from segzoo.weights import load_model


class Net(nn.Module):
    """A small model with two convolutions that only resemble classifiers.

    One is in the backbone, the other one has no bias.
    """

    input_channels, input_convs = 3, ()

    def __init__(self, num_classes, width=8):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = nn.ModuleDict({"c1": nn.Conv2d(3, width, 3), "c2": nn.Conv2d(width, num_classes, 1)})
        self.head = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.score = nn.Conv2d(6, num_classes, 1)
        self.mix = nn.Conv2d(6, num_classes, 1, bias=False)
        self.aux = nn.ModuleDict({"score": nn.Conv2d(6, num_classes, 1)})


def save(tmp_path, net, classes):
    """Write a run, or without classes a weight file without metadata."""
    if classes:
        return str(write_run(tmp_path, net.state_dict(), DatasetInfo("toy", tuple(classes), ((0, 0, 0),) * len(classes))))
    torch.save(net.state_dict(), tmp_path / "bare.pth")
    return str(tmp_path / "bare.pth")


def have_equal(keys, first, second):
    return all(torch.equal(first.state_dict()[k], second.state_dict()[k]) for k in keys)


def test_equal_classes_load_everything(tmp_path, capsys):
    old, new = Net(3), Net(3)
    report = INITS.build("checkpoint", new, ("a", "b", "c"), ckpt=save(tmp_path, old, "abc"))
    assert have_equal(loadable_names(old), old, new)
    assert (report.fraction, report.reinitialized, report.unused) == (1.0, (), ())
    assert "3 of 3 classes matched by name" in capsys.readouterr().out


@pytest.mark.parametrize("match", ["name", "index"])
def test_permuted_classes(tmp_path, match):
    old, new = Net(3), Net(3)
    INITS.build("checkpoint", new, ("c", "a", "b"), ckpt=save(tmp_path, old, "abc"), match=match)
    order = [2, 0, 1] if match == "name" else [0, 1, 2]
    for layer in ("score", "aux.score"):
        for part in ("weight", "bias"):
            assert torch.equal(new.state_dict()[f"{layer}.{part}"], old.state_dict()[f"{layer}.{part}"][order])
    assert have_equal([k for k in loadable_names(old) if k.startswith(("backbone.", "head.", "mix."))], old, new)


@pytest.mark.parametrize(
    ("match", "pairs", "note"),
    [
        ("name", [(0, 2), (2, 1)], "2 of 4 classes matched by name; new: rust, dent"),
        ("index", [(0, 0), (1, 1), (2, 2)], "by position"),
    ],
)
def test_other_classes_fill_the_rows_in_common(tmp_path, capsys, match, pairs, note):
    old, new = Net(3), Net(4)
    new.backbone["c2"] = nn.Conv2d(8, 3, 1)
    initial = {k: v.clone() for k, v in new.state_dict().items()}
    report = INITS.build(
        "checkpoint", new, ("car", "rust", "sky", "dent"), ckpt=save(tmp_path, old, ["road", "sky", "car"]), match=match
    )
    for part in ("weight", "bias"):
        expected = initial[f"score.{part}"].clone()
        for row, ckpt_row in pairs:
            expected[row] = old.state_dict()[f"score.{part}"][ckpt_row]
        assert torch.equal(new.state_dict()[f"score.{part}"], expected)
    assert note in capsys.readouterr().out
    assert (report.fraction, report.reinitialized) == (1.0, ("mix.weight",))


@pytest.mark.parametrize(("classes", "match"), [("cab", "name"), ("xcab", "name"), ("abc", "index")])
def test_transposed_convolutions_of_scores_follow_the_classes(tmp_path, classes, match):
    def fcn(num_classes):
        return MODELS.build("fcn", BACKBONES.build("resnet50", width=0.125), num_classes, deconv="learned").eval()

    old, new = fcn(3), fcn(len(classes))
    for name, parameter in old.named_parameters():
        if name.startswith(("score", "skips", "ups")):
            nn.init.normal_(parameter, std=0.1)
    INITS.build("checkpoint", new, tuple(classes), ckpt=save(tmp_path, old, "abc"), match=match)
    x = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        expected, logits = old(x).main, new(x).main
    known = [("abc".index(name), own) for own, name in enumerate(classes) if name in "abc"]
    torch.testing.assert_close(logits[:, [own for _, own in known]], expected[:, [row for row, _ in known]])


def test_a_class_count_that_contradicts_the_classifier_loads_no_rows(tmp_path):
    report = INITS.build("checkpoint", Net(3), ("a", "b", "c"), ckpt=save(tmp_path, Net(3), "abcd"))
    assert {"score.weight", "score.bias"} <= set(report.reinitialized)


def test_no_class_in_common_keeps_initial_classifiers(tmp_path):
    old, new = Net(3), Net(3)
    report = INITS.build("checkpoint", new, ("x", "y", "z"), ckpt=save(tmp_path, old, "abc"))
    assert set(report.reinitialized) == {f"{s}.{p}" for s in ("score", "aux.score") for p in ("weight", "bias")}
    assert have_equal(["backbone.c2.weight", "backbone.c2.bias", "head.0.weight"], old, new)


def test_a_classifier_of_other_input_channels_keeps_weight_and_bias(tmp_path):
    old, new = Net(3), Net(3)
    new.score = nn.Conv2d(5, 3, 1)
    bias = new.score.bias.clone()  # type: ignore[union-attr]
    report = INITS.build("checkpoint", new, ("a", "b", "c"), ckpt=save(tmp_path, old, "abc"))
    assert set(report.reinitialized) == set(report.unused) == {"score.weight", "score.bias"}
    assert torch.equal(bias, new.score.bias)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("classes", "ckpt_classes", "message"),
    [(("a", "b", "c"), "", "has no class names"), (None, "abc", "the dataset has no class names")],
)
def test_matching_by_name_requires_class_names(tmp_path, classes, ckpt_classes, message):
    path = save(tmp_path, Net(3), ckpt_classes)
    with pytest.raises(ConfigError, match=f"init.match=name.*{message}.*init.match=index"):
        INITS.build("checkpoint", Net(3), classes, ckpt=path)
    assert INITS.build("checkpoint", Net(3), classes, ckpt=path, match="index").fraction == 1.0


def test_another_backbone_is_rejected_and_changes_nothing(tmp_path):
    old, new = Net(3, width=8), Net(3, width=16)
    initial = {k: v.clone() for k, v in new.state_dict().items()}
    path = save(tmp_path, old, "abc")
    with pytest.raises(ConfigError, match=r"init.ckpt=.*only 0.0% of the backbone's parameters match, expected at least 50%"):
        INITS.build("checkpoint", new, ("a", "b", "c"), ckpt=path)
    [listing] = tmp_path.glob("segzoo-weights-*.txt")
    assert re.search(r"\nbackbone.c1 +0 +2 +2\n", listing.read_text())
    assert all(torch.equal(v, initial[k]) for k, v in new.state_dict().items())
    INITS.build("checkpoint", new, ("a", "b", "c"), ckpt=path, min_share=0.0)
    assert have_equal(["head.0.weight", "score.weight"], old, new)


def test_no_checkpoint_loads_nothing(monkeypatch):
    monkeypatch.setattr(load_model, "read_weights", lambda path: pytest.fail("read a file"))
    assert INITS.build("checkpoint", Net(2), None) is None


def test_invalid_settings_are_rejected():
    settings = {"ckpt": 3, "match": "names", "min_share": 1.5, "strict": True}
    errors = INITS.errors("checkpoint", settings)
    assert all(name in error for name, error in zip(settings, errors, strict=True))
