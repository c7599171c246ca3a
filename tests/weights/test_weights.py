"""Weights: every layout arrives layer by layer, nothing is loaded silently wrong, and each rejection says what to do."""

from __future__ import annotations

import json
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from segzoo.checkpoints.serialization import read_metadata
from segzoo.checkpoints.store import resolve_weight_file, write_manifest
from segzoo.io import sha256
from segzoo.registry import BACKBONES, INITS, ConfigError
from segzoo.weights import load_backbone, read_state
from segzoo.weights import load_model as whole


def fill(net):
    """Random values everywhere, running statistics included, so that no two tensors are alike."""
    state = {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in net.state_dict().items()}
    return {k: v.abs() + 0.5 if k.endswith("running_var") else v * 0.05 for k, v in state.items()}


def load(backbone, weights):
    report = load_backbone(backbone, str(weights))
    assert report is not None
    return report


@pytest.fixture(scope="module")
def resnet50_state():
    torch.manual_seed(0)
    with torch.device("meta"):
        net = torchvision.models.resnet50(weights=None)
    return fill(net.to_empty(device="cpu"))


@pytest.fixture(scope="module")
def trunk():
    """A freshly built backbone; tests that fill it take a copy of its values first."""
    torch.manual_seed(1)
    return BACKBONES.build("resnet50")


def same_features(backbone, state):
    """Whether ``backbone`` gives torchvision's features under torchvision's weights."""
    theirs = torchvision.models.resnet50(weights=None)
    theirs.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    body = nn.Sequential(*list(theirs.eval().children())[:-2])
    with torch.no_grad():
        return torch.allclose(backbone.eval().forward_stages(x)["c5"], body(x), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------- reading files


WRAPS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"lr": 0.1}},
    "ddp": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "both": lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}},
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_wrappers_and_prefixes_come_off(tmp_path, wrap):
    state = {"c1.weight": torch.randn(3), "c1.bias": torch.randn(3)}
    torch.save(WRAPS[wrap](state), tmp_path / "net.pth")
    found = read_state(tmp_path / "net.pth")
    assert list(found) == list(state)
    assert all(torch.equal(found[k], state[k]) for k in state)


def test_a_module_called_module_keeps_its_name(tmp_path):
    torch.save({"module.weight": torch.ones(1), "head.weight": torch.ones(1)}, tmp_path / "net.pth")
    assert list(read_state(str(tmp_path / "net.pth"))) == ["module.weight", "head.weight"]


class Evil:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("name", "write", "fault"),
    [
        ("evil.pth", lambda p: torch.save({"w": torch.ones(1), "x": Evil()}, p), "cannot be read as weights.*tensors only"),
        ("torn.pth", lambda p: p.write_bytes(b"PK\x03\x04 half"), "cannot be read as weights"),
        ("empty.pth", lambda p: p.write_bytes(b""), "cannot be read as weights"),
        ("torn.safetensors", lambda p: p.write_bytes(b"\x09" * 20), "cannot be read as safetensors"),
        ("list.pth", lambda p: torch.save([torch.ones(1)], p), "holds no tensors by name"),
        ("numbers.pth", lambda p: torch.save({"epoch": 3}, p), "holds no tensors by name"),
    ],
)
def test_unusable_files_are_refused_by_name(tmp_path, capsys, name, write, fault):
    write(tmp_path / name)
    with pytest.raises(ConfigError, match=f"(?s){name}.*{fault}"):
        read_state(tmp_path / name)
    assert "ran" not in capsys.readouterr().out


def run_folder(tmp_path, state, info=None):
    """A run with two steps, of which the first is the best."""
    for step, factor in (("0000100", 1.0), ("0000200", 2.0)):
        folder = tmp_path / "run" / "checkpoints" / step
        folder.mkdir(parents=True)
        metadata = {"segzoo": json.dumps({"step": int(step), "dataset": info or {}})}
        file = folder / "model.safetensors"
        save_file({k: v.contiguous() * factor for k, v in state.items()}, file, metadata)
        write_manifest(folder, {"files": {file.name: {"sha256": sha256(file), "bytes": file.stat().st_size}}})
    (tmp_path / "run" / "checkpoints" / "best").write_text("0000100\n")
    (tmp_path / "run" / "checkpoints" / "last").write_text("0000200\n")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("path", "value"),
    [("", 1), ("checkpoints", 1), ("checkpoints/best", 1), ("checkpoints/last", 2), ("checkpoints/0000200", 2)],
)
def test_run_folders(tmp_path, path, value):
    run = run_folder(tmp_path, {"w": torch.ones(2)})
    assert read_state(run / path)["w"].tolist() == [value, value]
    assert read_metadata(run / path)["step"] == 100 * value
    assert resolve_weight_file(run / path).name == "model.safetensors"


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(ConfigError, match="nothere.pth does not exist"):
        read_state(tmp_path / "nothere.pth")
    with pytest.raises(ConfigError, match="neither a run directory nor a checkpoint directory"):
        read_state(tmp_path)
    run = run_folder(tmp_path, {"w": torch.ones(2)})
    (tmp_path / "secret").mkdir()
    save_file({"w": torch.ones(1)}, tmp_path / "secret" / "model.safetensors")
    for step in ("0000300", "../../secret", ""):
        (run / "checkpoints" / "best").write_text(step)
        with pytest.raises(ConfigError, match="best names step"):
            read_state(run)


def test_metadata_of_others_is_empty(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors", {"format": "pt"})
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pth")
    assert read_metadata(tmp_path / "a.safetensors") == read_metadata(tmp_path / "a.pth") == {}


# ---------------------------------------------------------------------------------------------- backbones


def test_torchvision_file_gives_torchvision_features(tmp_path, capsys, resnet50_state):
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
def test_segzoo_file_of_a_trunk_and_of_a_whole_model(tmp_path, trunk, prefix):
    state = {prefix + k: v for k, v in fill(trunk).items()} | ({"score.weight": torch.ones(1)} if prefix else {})
    save_file(state, tmp_path / "a.safetensors")
    backbone = BACKBONES.build("resnet50", weights=str(tmp_path / "a.safetensors"))
    assert all(torch.equal(v, state[prefix + k]) for k, v in backbone.state_dict().items() if "num_batches" not in k)
    assert load(backbone, tmp_path / "a.safetensors").unused == (("score.weight",) if prefix else ())


@pytest.mark.parametrize(("oracle", "batch_norm"), [("vgg16", False), ("vgg16_bn", True)])
def test_vgg_file(tmp_path, oracle, batch_norm):
    with torch.device("meta"):
        net = getattr(torchvision.models, oracle)(weights=None)
    net = net.features.to_empty(device="cpu").eval()
    net.load_state_dict(fill(net))
    state = {f"features.{k}": v for k, v in net.state_dict().items()} | {"classifier.0.bias": torch.ones(2)}
    torch.save(state, tmp_path / "vgg.pth")
    backbone = BACKBONES.build("vgg16", batch_norm=batch_norm, weights=str(tmp_path / "vgg.pth")).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(backbone.forward_stages(x)["c5"], net(x), rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="wanted 50%"):
        BACKBONES.build("vgg16", batch_norm=not batch_norm, weights=str(tmp_path / "vgg.pth"))


def timm_deep_stem(state, wide, out):
    """A torchvision state dict with the stem of timm's resnet50c (32, 64) or resnet50s (64, 128)."""
    kept = {k: v for k, v in state.items() if not k.startswith(("conv1.", "bn1."))}
    for index, (cin, cout) in zip((0, 3, 6), ((3, wide), (wide, wide), (wide, out)), strict=True):
        kept[f"conv1.{index}.weight"] = torch.randn(cout, cin, 3, 3)
        norm = "bn1" if index == 6 else f"conv1.{index + 1}"
        kept |= {f"{norm}.{part}": torch.rand(cout) for part in ("weight", "bias", "running_mean", "running_var")}
    for layer in ("conv1", "downsample.0"):
        key = f"layer1.0.{layer}.weight"
        kept[key] = torch.randn(kept[key].shape[0], out, 1, 1)
    return kept


@pytest.mark.parametrize(("stem", "wide", "out"), [("v1c", 32, 64), ("deep", 64, 128)])
def test_timm_deep_stems(tmp_path, resnet50_state, stem, wide, out):
    state = timm_deep_stem(resnet50_state, wide, out)
    save_file(state, tmp_path / "timm.safetensors")
    backbone = BACKBONES.build("resnet50", stem=stem, weights=str(tmp_path / "timm.safetensors"))
    report = load(backbone, tmp_path / "timm.safetensors")
    assert (report.reinitialized, set(report.unused)) == ((), {"fc.weight", "fc.bias"})
    for ours, theirs in (("c1.0", "conv1.0"), ("c1.3", "conv1.3"), ("c1.4", "conv1.4"), ("c1.6", "conv1.6"), ("c1.7", "bn1")):
        assert torch.equal(backbone.state_dict()[f"{ours}.weight"], state[f"{theirs}.weight"])
    other = BACKBONES.build("resnet50")
    report = load(other, tmp_path / "timm.safetensors")
    assert {name for name in report.reinitialized if name.startswith("c1.")} == {k for k in _kept(other) if k.startswith("c1.")}


def _kept(net):
    return [k for k in net.state_dict() if "num_batches" not in k]


# ---------------------------------------------------------------------------------------------- imagenet


@pytest.fixture
def enum(monkeypatch, resnet50_state):
    """Torchvision's enum with the download replaced; records what was asked of it."""
    asked = []

    def get_state_dict(self, *args, **kwargs):
        asked.append((str(self), kwargs))
        return resnet50_state

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", get_state_dict)
    return asked


def test_imagenet_asks_torchvisions_enum_and_checks_the_hash(enum, resnet50_state):
    backbone = BACKBONES.build("resnet50", weights="imagenet")
    [(entry, given)] = enum
    assert (entry, given["check_hash"], given["weights_only"]) == ("ResNet50_Weights.IMAGENET1K_V1", True, True)
    assert same_features(backbone, resnet50_state)


@pytest.mark.parametrize(
    ("name", "given", "entry"),
    [
        ("resnet101", {}, "ResNet101_Weights.IMAGENET1K_V1"),
        ("vgg16", {}, "VGG16_Weights.IMAGENET1K_V1"),
        ("vgg16", {"batch_norm": True}, "VGG16_BN_Weights.IMAGENET1K_V1"),
    ],
)
def test_every_backbone_names_weights_that_exist_and_fit(name, given, entry):
    with torch.device("meta"):
        backbone = BACKBONES.build(name, **given)
        model = getattr(torchvision.models, entry.partition("_Weights")[0].lower())(weights=None)
    assert backbone.imagenet() == (entry, "")
    weights = torchvision.models.get_weight(entry)
    assert weights.url.startswith("https://download.pytorch.org/")
    assert weights.meta["num_params"] == sum(p.numel() for p in model.parameters())


def test_none_asks_nobody(enum, capsys):
    BACKBONES.build("resnet50", width=0.125, weights="none")
    assert (enum, capsys.readouterr().out) == ([], "")


@pytest.mark.parametrize(("stem", "anew"), [("v1c", 15), ("deep", 15 + 2)])
def test_other_stem_starts_anew_and_is_listed(enum, capsys, stem, anew):
    backbone = BACKBONES.build("resnet50", stem=stem, stride_at="1x1", weights="imagenet")
    printed = capsys.readouterr().out
    assert (
        f"trained with the basic stem: the {stem} stem and the layers that read it are newly initialized; "
        "trained with the stride in the 3x3 convolution" in printed
    )
    report = load(backbone, "imagenet")
    assert len(report.reinitialized) == anew
    assert {name.split(".")[0] for name in report.reinitialized} <= {"c1", "c2"}
    inside = {name for name in report.reinitialized if name.startswith("c2.")}
    assert inside == ({"c2.0.conv1.weight", "c2.0.downsample.0.weight"} if stem == "deep" else set())
    assert set(report.unused) >= {"conv1.weight", "bn1.weight", "bn1.running_mean"}
    assert "c1.0.weight" in printed
    assert f"and {anew - 6} more" in printed
    assert [line.split() for line in printed.splitlines() if line.startswith("c1 ")] == [["c1", "0", "15", "0"]]


def test_other_width_is_refused_before_anything_is_fetched(enum):
    with pytest.raises(ConfigError, match=r"weights='imagenet'.*width 1, this resnet50 has width 0.5.*Set backbone.width=1"):
        BACKBONES.build("resnet50", width=0.5, weights="imagenet")
    assert enum == []


def test_offline_says_where_the_file_is(monkeypatch):
    def get_state_dict(self, *args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", get_state_dict)
    with pytest.raises(ConfigError, match=r"https://download.*resnet50.*no route to host.*backbone.weights=<path>"):
        BACKBONES.build("resnet50", weights="imagenet")


def test_wrong_file_is_refused_and_changes_nothing(tmp_path, trunk, resnet50_state):
    torch.save({k: v for k, v in resnet50_state.items() if not k.startswith(("layer3", "layer4"))}, tmp_path / "part.pth")
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    with pytest.raises(ConfigError, match=r"(?s)only 6\.\d% of the backbone's parameters fit, wanted 50%.*c5 +0 +50 +0"):
        load(trunk, tmp_path / "part.pth")
    assert all(torch.equal(v, before[k]) for k, v in trunk.state_dict().items())


def test_only_the_first_process_prints(tmp_path, monkeypatch, capsys, trunk):
    save_file(trunk.state_dict(), tmp_path / "a.safetensors")
    for rank, lines in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        load(trunk, tmp_path / "a.safetensors")
        assert capsys.readouterr().out.count("weights from") == lines


# ---------------------------------------------------------------------------------------------- whole models


class Net(nn.Module):
    """A model in small: backbone, head, score layers, and two layers that only look like one (in the backbone; without bias)."""

    def __init__(self, num_classes, wide=8):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = nn.ModuleDict({"c1": nn.Conv2d(3, wide, 3), "c2": nn.Conv2d(wide, num_classes, 1)})
        self.head = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.score = nn.Conv2d(6, num_classes, 1)
        self.mix = nn.Conv2d(6, num_classes, 1, bias=False)
        self.aux = nn.ModuleDict({"score": nn.Conv2d(6, num_classes, 1)})


def saved(tmp_path, net, classes):
    return str(run_folder(tmp_path, net.state_dict(), {"classes": list(classes)}))


def same(a, b, keys):
    return all(torch.equal(a.state_dict()[k], b.state_dict()[k]) for k in keys)


def test_equal_classes_load_everything(tmp_path, capsys):
    old, new = Net(3), Net(3)
    report = INITS.build("checkpoint", new, ("a", "b", "c"), ckpt=saved(tmp_path, old, "abc"))
    assert same(old, new, _kept(old))
    assert (report.share, report.reinitialized, report.left_over) == (1.0, (), ())
    assert "3 of 3 classes matched by name" in capsys.readouterr().out


@pytest.mark.parametrize("match", ["name", "index"])
def test_permuted_classes(tmp_path, match):
    old, new = Net(3), Net(3)
    INITS.build("checkpoint", new, ("c", "a", "b"), ckpt=saved(tmp_path, old, "abc"), match=match)
    order = [2, 0, 1] if match == "name" else [0, 1, 2]
    for score in ("score", "aux.score"):
        for part in ("weight", "bias"):
            assert torch.equal(new.state_dict()[f"{score}.{part}"], old.state_dict()[f"{score}.{part}"][order])
    assert same(old, new, [k for k in _kept(old) if k.startswith(("backbone.", "head.", "mix."))])


@pytest.mark.parametrize(
    ("match", "pairs", "note"),
    [
        ("name", [(0, 2), (2, 1)], "2 of 4 classes matched by name; new: rust, dent"),
        ("index", [(0, 0), (1, 1), (2, 2)], "by position"),
    ],
)
def test_other_classes_fill_the_rows_they_share(tmp_path, capsys, match, pairs, note):
    old, new = Net(3), Net(4)
    new.backbone["c2"] = nn.Conv2d(8, 3, 1)
    fresh = {k: v.clone() for k, v in new.state_dict().items()}
    report = INITS.build(
        "checkpoint", new, ("car", "rust", "sky", "dent"), ckpt=saved(tmp_path, old, ["road", "sky", "car"]), match=match
    )
    for part in ("weight", "bias"):
        wanted = fresh[f"score.{part}"].clone()
        for here, there in pairs:
            wanted[here] = old.state_dict()[f"score.{part}"][there]
        assert torch.equal(new.state_dict()[f"score.{part}"], wanted)
    assert note in capsys.readouterr().out
    assert (report.share, report.reinitialized) == (1.0, ("mix.weight",))


def test_card_that_contradicts_the_scores_fills_no_rows(tmp_path):
    report = INITS.build("checkpoint", Net(3), ("a", "b", "c"), ckpt=saved(tmp_path, Net(3), "abcd"))
    assert {"score.weight", "score.bias"} <= set(report.reinitialized)


def test_no_class_in_common_leaves_the_scores_fresh(tmp_path):
    old, new = Net(3), Net(3)
    report = INITS.build("checkpoint", new, ("x", "y", "z"), ckpt=saved(tmp_path, old, "abc"))
    assert set(report.reinitialized) == {f"{s}.{p}" for s in ("score", "aux.score") for p in ("weight", "bias")}
    assert same(old, new, ["backbone.c2.weight", "backbone.c2.bias", "head.0.weight"])


def test_score_layer_of_another_input_keeps_weight_and_bias(tmp_path):
    old, new = Net(3), Net(3)
    new.score = nn.Conv2d(5, 3, 1)
    bias = new.score.bias.clone()  # type: ignore[union-attr]
    report = INITS.build("checkpoint", new, ("a", "b", "c"), ckpt=saved(tmp_path, old, "abc"))
    assert set(report.reinitialized) == set(report.left_over) == {"score.weight", "score.bias"}
    assert torch.equal(bias, new.score.bias)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("classes", "names", "fault"),
    [(("a", "b", "c"), "", "holds no class names"), (None, "abc", "the data set has no class names")],
)
def test_names_are_needed_to_match_by_name(tmp_path, classes, names, fault):
    path = saved(tmp_path, Net(3), names)
    with pytest.raises(ConfigError, match=f"init.match=name.*{fault}.*init.match=index"):
        INITS.build("checkpoint", Net(3), classes, ckpt=path)
    assert INITS.build("checkpoint", Net(3), classes, ckpt=path, match="index").share == 1.0


def test_another_trunk_is_refused_and_changes_nothing(tmp_path):
    old, new = Net(3, wide=8), Net(3, wide=16)
    fresh = {k: v.clone() for k, v in new.state_dict().items()}
    path = saved(tmp_path, old, "abc")
    with pytest.raises(
        ConfigError, match=r"(?s)init.ckpt=.*only 0.0% of the backbone's parameters fit, wanted 50%.*backbone.c1 +0 +2 +2"
    ):
        INITS.build("checkpoint", new, ("a", "b", "c"), ckpt=path)
    assert all(torch.equal(v, fresh[k]) for k, v in new.state_dict().items())
    INITS.build("checkpoint", new, ("a", "b", "c"), ckpt=path, min_share=0.0)
    assert same(old, new, ["head.0.weight", "score.weight"])


def test_no_checkpoint_is_no_step(monkeypatch):
    monkeypatch.setattr(whole, "read_weights", lambda path: pytest.fail("read a file"))
    assert INITS.build("checkpoint", Net(2), None) is None


def test_wrong_settings_are_refused():
    faults = INITS.errors("checkpoint", {"ckpt": 3, "match": "names", "min_share": 1.5, "strict": True})
    assert [word for word, fault in zip(("ckpt", "match", "min_share", "strict"), faults, strict=True) if word in fault] == [
        "ckpt",
        "match",
        "min_share",
        "strict",
    ]
