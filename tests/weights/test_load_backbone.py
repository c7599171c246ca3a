"""Loading backbone weights from torchvision, timm and segzoo."""

from __future__ import annotations

import re
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from weight_files import loadable_names, random_state

from segzoo.registry import BACKBONES, ConfigError
from segzoo.weights import load_backbone


def load(backbone, weights):
    report = load_backbone(backbone, str(weights))
    assert report is not None
    return report


@pytest.fixture(scope="module")
def resnet50_state():
    torch.manual_seed(0)
    with torch.device("meta"):
        net = torchvision.models.resnet50(weights=None)
    return random_state(net.to_empty(device="cpu"))


@pytest.fixture(scope="module")
def backbone():
    """A ResNet-50 with initial weights, shared by tests that may overwrite them."""
    torch.manual_seed(1)
    return BACKBONES.build("resnet50")


def same_features(backbone, state):
    """Compare the features with torchvision's, which has the same weights."""
    reference = torchvision.models.resnet50(weights=None)
    reference.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    body = nn.Sequential(*list(reference.eval().children())[:-2])
    with torch.no_grad():
        return torch.allclose(backbone.eval().forward_stages(x)["c5"], body(x), rtol=1e-4, atol=1e-5)


@pytest.mark.integration
def test_torchvision_file_gives_torchvisions_features(tmp_path, capsys, resnet50_state):
    torch.save(resnet50_state, tmp_path / "r50.pth")
    backbone = BACKBONES.build("resnet50", weights=str(tmp_path / "r50.pth"))
    printed = capsys.readouterr().out
    assert "100.0% of the backbone's parameters loaded" in printed
    assert "re-initialized:" not in printed
    assert same_features(backbone, resnet50_state)
    report = load(backbone, tmp_path / "r50.pth")
    assert (report.fraction, report.reinitialized, report.unused) == (1.0, (), ("fc.weight", "fc.bias"))
    assert len(report.loaded) == len([k for k in resnet50_state if "num_batches" not in k]) - 2


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_segzoo_file_of_a_backbone_or_a_whole_model(tmp_path, backbone, prefix):
    state = {prefix + k: v for k, v in random_state(backbone).items()} | ({"score.weight": torch.ones(1)} if prefix else {})
    save_file(state, tmp_path / "a.safetensors")
    built = BACKBONES.build("resnet50", weights=str(tmp_path / "a.safetensors"))
    assert all(torch.equal(v, state[prefix + k]) for k, v in built.state_dict().items() if "num_batches" not in k)
    assert load(built, tmp_path / "a.safetensors").unused == (("score.weight",) if prefix else ())


@pytest.mark.parametrize(("reference", "batch_norm"), [("vgg16", False), ("vgg16_bn", True)])
def test_vgg_file(tmp_path, reference, batch_norm):
    with torch.device("meta"):
        net = getattr(torchvision.models, reference)(weights=None)
    net = net.features.to_empty(device="cpu").eval()
    net.load_state_dict(random_state(net))
    state = {f"features.{k}": v for k, v in net.state_dict().items()} | {"classifier.0.bias": torch.ones(2)}
    torch.save(state, tmp_path / "vgg.pth")
    backbone = BACKBONES.build("vgg16", batch_norm=batch_norm, weights=str(tmp_path / "vgg.pth")).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(backbone.forward_stages(x)["c5"], net(x), rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="expected at least 50%"):
        BACKBONES.build("vgg16", batch_norm=not batch_norm, weights=str(tmp_path / "vgg.pth"))


def test_vgg_file_of_caffe_is_for_bgr(tmp_path):
    with torch.device("meta"):
        net = torchvision.models.vgg16(weights=None)
    net = net.features.to_empty(device="cpu").eval()
    net.load_state_dict(random_state(net))
    convs = [layer for layer in net.children() if isinstance(layer, torch.nn.Conv2d)]
    names = [f"conv{stage}_{i}" for stage, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)]
    state = {f"{name}.{part}": getattr(conv, part) for name, conv in zip(names, convs, strict=True) for part in ("weight", "bias")}
    fc = {"fc6": torch.randn(4096, 25088).half(), "fc7": torch.randn(4096, 4096).half()}
    torch.save(
        state | {f"{name}.{part}": t if part == "weight" else t[:, 0] for name, t in fc.items() for part in ("weight", "bias")},
        tmp_path / "caffe.pth",
    )
    backbone = BACKBONES.build("vgg16", weights=str(tmp_path / "caffe.pth")).eval()
    bgr = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(backbone.forward_stages(bgr.flip(1))["c5"], net(bgr), rtol=1e-4, atol=1e-3)  # of 300
    assert torch.equal(backbone.classifier["fc7.weight"], fc["fc7"]) and backbone.classifier["fc6.bias"].shape == (4096,)
    with pytest.raises(ConfigError, match="The file is a vgg16 without batch norm; this is a resnet50"):
        BACKBONES.build("resnet50", weights=str(tmp_path / "caffe.pth"))


def timm_deep_stem(state, width, out):
    """Convert a torchvision state dict to a stem of timm.

    The deep stem of resnet50c has channels (32, 64), that of resnet50s (64, 128).
    """
    converted = {k: v for k, v in state.items() if not k.startswith(("conv1.", "bn1."))}
    for index, (cin, cout) in zip((0, 3, 6), ((3, width), (width, width), (width, out)), strict=True):
        converted[f"conv1.{index}.weight"] = torch.randn(cout, cin, 3, 3)
        bn = "bn1" if index == 6 else f"conv1.{index + 1}"
        converted |= {f"{bn}.{part}": torch.rand(cout) for part in ("weight", "bias", "running_mean", "running_var")}
    for layer in ("conv1", "downsample.0"):
        key = f"layer1.0.{layer}.weight"
        converted[key] = torch.randn(converted[key].shape[0], out, 1, 1)
    return converted


@pytest.mark.parametrize(("stem", "width", "out"), [("v1c", 32, 64), ("deep", 64, 128)])
def test_timm_deep_stems(tmp_path, resnet50_state, stem, width, out):
    state = timm_deep_stem(resnet50_state, width, out)
    save_file(state, tmp_path / "timm.safetensors")
    backbone = BACKBONES.build("resnet50", stem=stem, weights=str(tmp_path / "timm.safetensors"))
    report = load(backbone, tmp_path / "timm.safetensors")
    assert (report.reinitialized, set(report.unused)) == ((), {"fc.weight", "fc.bias"})
    for local, external in (("c1.0", "conv1.0"), ("c1.3", "conv1.3"), ("c1.4", "conv1.4"), ("c1.6", "conv1.6"), ("c1.7", "bn1")):
        assert torch.equal(backbone.state_dict()[f"{local}.weight"], state[f"{external}.weight"])
    other = BACKBONES.build("resnet50")
    report = load(other, tmp_path / "timm.safetensors")
    assert {name for name in report.reinitialized if name.startswith("c1.")} == {
        k for k in loadable_names(other) if k.startswith("c1.")
    }


def test_stems_of_mmsegmentation_are_read(tmp_path):
    torch.manual_seed(0)
    trained = BACKBONES.build("resnet50", stem="v1c", width=0.125)
    named = {
        f"stem.{name[3:]}" if name.startswith("c1.") else f"layer{int(name[1]) - 1}{name[2:]}": name
        for name in loadable_names(trained)
    }
    state = trained.state_dict()
    torch.save({"state_dict": {external: state[name] for external, name in named.items()}}, tmp_path / "v1c.pth")
    backbone = BACKBONES.build("resnet50", stem="v1c", width=0.125)
    report = load(backbone, tmp_path / "v1c.pth")
    assert (report.reinitialized, report.unused) == ((), ()) and torch.equal(backbone.c1[0].weight, trained.c1[0].weight)
    report = load(BACKBONES.build("resnet50", width=0.125), tmp_path / "v1c.pth")
    assert {name.partition(".")[0] for name in report.unused} == {"stem"} and "c1.0.weight" in report.reinitialized


@pytest.fixture
def downloads(monkeypatch, resnet50_state):
    """Calls of torchvision's weight download, which is mocked."""
    calls = []

    def get_state_dict(self, *args, **kwargs):
        calls.append((str(self), kwargs))
        return resnet50_state

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", get_state_dict)
    return calls


def test_imagenet_weights_come_from_torchvision_with_their_hash_checked(downloads, resnet50_state):
    backbone = BACKBONES.build("resnet50", weights="imagenet")
    [(entry, kwargs)] = downloads
    assert (entry, kwargs["check_hash"], kwargs["weights_only"]) == ("ResNet50_Weights.IMAGENET1K_V1", True, True)
    assert same_features(backbone, resnet50_state)


@pytest.mark.parametrize(
    ("name", "settings", "entry"),
    [
        ("resnet101", {}, "ResNet101_Weights.IMAGENET1K_V1"),
        ("vgg16", {}, "VGG16_Weights.IMAGENET1K_V1"),
        ("vgg16", {"batch_norm": True}, "VGG16_BN_Weights.IMAGENET1K_V1"),
    ],
)
def test_every_backbone_names_existing_weights_of_its_size(name, settings, entry):
    with torch.device("meta"):
        backbone = BACKBONES.build(name, **settings)
        model = getattr(torchvision.models, entry.partition("_Weights")[0].lower())(weights=None)
    assert backbone.imagenet() == (entry, "")
    weights = torchvision.models.get_weight(entry)
    assert weights.url.startswith("https://download.pytorch.org/")
    assert weights.meta["num_params"] == sum(p.numel() for p in model.parameters())


def test_none_downloads_nothing(downloads, capsys):
    BACKBONES.build("resnet50", width=0.125, weights="none")
    assert (downloads, capsys.readouterr().out) == ([], "")


@pytest.mark.parametrize(("stem", "reinitialized"), [("v1c", 15), ("deep", 15 + 2)])
def test_another_stem_is_reinitialized_and_listed(downloads, capsys, stem, reinitialized):
    backbone = BACKBONES.build("resnet50", stem=stem, stride_at="1x1", weights="imagenet")
    printed = capsys.readouterr().out
    layers = "v1c stem is" if stem == "v1c" else "deep stem and the layers that read it are"
    assert f"trained with the basic stem: the {layers} newly initialized; trained with the stride in the 3x3 convolution" in printed
    report = load(backbone, "imagenet")
    assert len(report.reinitialized) == reinitialized
    assert {name.split(".")[0] for name in report.reinitialized} <= {"c1", "c2"}
    in_c2 = {name for name in report.reinitialized if name.startswith("c2.")}
    assert in_c2 == ({"c2.0.conv1.weight", "c2.0.downsample.0.weight"} if stem == "deep" else set())
    assert set(report.unused) >= {"conv1.weight", "bn1.weight", "bn1.running_mean"}
    assert "c1.0.weight" in printed
    assert f"and {reinitialized - 6} more" in printed
    assert [line.split() for line in printed.splitlines() if line.startswith("c1 ")] == [["c1", "0", "15", "0"]]


def test_another_width_is_rejected_before_the_download(downloads):
    with pytest.raises(ConfigError, match=r"weights='imagenet'.*width 1, this resnet50 has width 0.5.*Set backbone.width=1"):
        BACKBONES.build("resnet50", width=0.5, weights="imagenet")
    assert downloads == []


def test_a_failed_download_names_the_url(monkeypatch):
    def get_state_dict(self, *args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", get_state_dict)
    with pytest.raises(ConfigError, match=r"https://download.*resnet50.*no route to host.*backbone.weights=<path>"):
        BACKBONES.build("resnet50", weights="imagenet")


def test_a_wrong_file_is_rejected_and_changes_nothing(tmp_path, backbone, resnet50_state):
    torch.save({k: v for k, v in resnet50_state.items() if not k.startswith(("layer3", "layer4"))}, tmp_path / "part.pth")
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(ConfigError, match=r"only 6\.\d% of the backbone's parameters match, expected at least 50%"):
        load(backbone, tmp_path / "part.pth")
    [listing] = tmp_path.glob("segzoo-weights-*.txt")
    assert re.search(r"\nc5 +0 +50 +0\n", listing.read_text())
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_only_rank_0_prints_the_report(tmp_path, monkeypatch, capsys, backbone):
    save_file(backbone.state_dict(), tmp_path / "a.safetensors")
    for rank, lines in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        load(backbone, tmp_path / "a.safetensors")
        assert capsys.readouterr().out.count("weights from") == lines
