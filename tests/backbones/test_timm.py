"""Encoders of timm, compared with timm itself."""

from __future__ import annotations

import copy
import importlib
import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from small_models import random_images, randomized, scalar_loss
from torch import nn

from segzoo.api import create_model
from segzoo.backbones.timm import encoder_normalization
from segzoo.config.from_weights import choose_normalization
from segzoo.distributed import sync_batch_norm
from segzoo.export.exporter import export_model
from segzoo.layers.conv import fuse_conv_bn_
from segzoo.pruning.dependency_graph import trace_channels
from segzoo.pruning.selection import select_channels
from segzoo.pruning.surgery import channels_masked, remove_channels_
from segzoo.registry import BACKBONES, PRUNERS, ConfigError
from segzoo.types import IMAGENET
from segzoo.workflows.benchmark.workload import build_workload

timm = pytest.importorskip("timm")
SLOW = pytest.mark.slow
TINY = (
    "resnet10t",
    "mobilenetv3_small_050",
    "test_convnext",
    *(pytest.param(a, marks=SLOW) for a in ("test_byobnet", "rexnet_100")),
)
TABLES = ("resnet10t", "mobilenetv3_small_050", "regnety_004", "convnext_atto", "vgg11_bn", "cspdarknet53")


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory):
    """Write a classifier's weights, which reveal an error, in timm's names."""
    folder, files = tmp_path_factory.mktemp("timm"), {}

    def write(arch):
        if arch not in files:
            torch.manual_seed(0)
            files[arch] = folder / f"{arch}.safetensors"
            save_file(randomized(timm.create_model(arch)).state_dict(), files[arch])
        return str(files[arch])

    return write


def features_only(arch, file, **options):
    """Timm's own model of feature maps, with weights that timm loads."""
    overlay = {"file": file}
    return timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True, **options).eval()


def encoder(arch, **options):
    return BACKBONES.build("timm", arch=arch, **options).eval()


def meta_model(model, arch, **settings):
    with torch.device("meta"):
        return create_model(model, backbone={"name": "timm", "arch": arch}, num_classes=4, **settings)


@pytest.mark.parametrize("arch", TABLES)
def test_stage_table_is_timms_feature_info(arch):
    with torch.device("meta"):
        net, info = BACKBONES.build("timm", arch=arch), timm.create_model(arch, features_only=True).feature_info
    table = {stage["reduction"]: stage["num_chs"] for stage in info.info if stage["reduction"] > 1}
    assert {stage.stride: stage.channels for stage in net.stages} == table
    assert {name: net.channels[name] for name in ("c3", "c4", "c5")} == {f"c{i}": table[2**i] for i in (3, 4, 5)}


@pytest.mark.integration
@pytest.mark.parametrize("arch", TINY)
@torch.no_grad()
def test_outputs_equal_timms_from_the_same_file(arch, weight_file, capsys):
    file, x = weight_file(arch), random_images(1, 3, 97, 129)
    net = encoder(arch, weights=file)
    assert "100.0% of the backbone's parameters loaded" in capsys.readouterr().out
    whole = net(x)
    maps = [whole[stage.name] for stage in net.stages]
    assert all(torch.equal(*pair) for pair in zip(maps, features_only(arch, file)(x), strict=True))
    inner = net.forward_stages(x, last="c3_1")["c3_1"]
    assert torch.equal(inner, whole["c3_1"]) and inner.shape[1] == net.channels["c3_1"]
    assert torch.equal(net.forward_stages(inner, first="after_c3_1")["c5"], whole["c5"])
    for stride in (16, 8):
        dilated = copy.deepcopy(net).set_output_stride_(stride, "half")(x)  # timm's own dilation
        expected = features_only(arch, file, output_stride=stride)(x)
        assert all(torch.equal(*pair) for pair in zip([dilated[s.name] for s in net.stages], expected, strict=True))
        full = copy.deepcopy(net).set_output_stride_(stride, "full")(x)["c5"]
        assert full.shape == dilated["c5"].shape and torch.equal(full, dilated["c5"]) == (arch == "test_convnext")
    fused = copy.deepcopy(net)
    assert (fuse_conv_bn_(fused) > 0) == (arch != "test_convnext")
    torch.testing.assert_close(fused(x)["c5"], whole["c5"], rtol=1e-4, atol=1e-4 * whole["c5"].abs().max().item())


@pytest.mark.slow
@torch.no_grad()
def test_resnet_equals_segzoos_own():
    """Both dilate alike, so the two implementations check each other."""
    own = randomized(BACKBONES.build("resnet50")).eval()
    other, x = encoder("resnet50"), random_images(1, 3, 33, 33)
    names = {"c1.0.": "c1.conv1.", "c1.1.": "c1.bn1."} | {f"c{i}.": f"c{i}.layer{i - 1}." for i in range(2, 6)}
    state = {next(v + k.removeprefix(p) for p, v in names.items() if k.startswith(p)): t for k, t in own.state_dict().items()}
    other.load_state_dict(state)
    for first_block_dilation in ("full", "half"):
        pair = [copy.deepcopy(net).set_output_stride_(8, first_block_dilation)(x) for net in (own, other)]
        assert list(pair[0]) == list(pair[1])
        assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[0])


@torch.no_grad()
def test_buffers_outside_the_state_dict_survive_dilation():
    net, x = encoder("resnetblur18"), random_images(1, 3, 64, 64)
    assert net.set_output_stride_(8)(x)["c5"].shape[-1] == 8
    assert not any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers()))


@pytest.mark.parametrize(
    ("model", "arch", "settings", "message"),
    [
        ("fcn", "vit_tiny_patch16_224", {}, "one size, 224x224"),
        ("fcn", "hrnet_w18_small", {}, "HighResolutionNetFeatures is not a chain.*resnet18"),
        ("fcn", "shvit_s1", {}, r"strides \[16, 32, 64\], expected 8, 16 and 32"),
        ("fcn", "convnext_tinny", {}, r"timm \S+ has no convnext_tinny. Did you mean 'convnext_tiny'.*list_models\('convnext\*'\)"),
        ("fcn", "resnet50.a1_in2k", {}, r"no weights 'a1_in2k' of resnet50. Did you mean 'a1_in1k'.*Valid: .*tv_in1k"),
        (
            "pspnet",
            "densenet121",
            {},
            "cannot dilate this encoder to output stride 8.*resnet18.*convnext_tiny.*model.output_stride=32",
        ),
        ("icnet", "cspdarknet53", {}, "feature map c3_1, which cspdarknet53 does not have, because its c3 cannot be divided"),
        (
            "deeplab_largefov",
            "convnext_atto",
            {"msc": "joint"},
            "feature map c1, which convnext_atto does not have. It has c2, c3, c4",
        ),
        ("icnet_half", "resnet18", {}, "backbone.width=0.5, which backbone=timm does not have.*model=icnet"),
    ],
)
def test_what_does_not_fit_is_rejected_by_name(model, arch, settings, message):
    with pytest.raises(ConfigError, match=message):
        meta_model(model, arch, **settings)


@pytest.mark.slow
def test_freezing_a_stage_without_weights_names_the_stage_with_the_stem():
    net = encoder("test_convnext")
    assert not list(net.c1.parameters())
    with pytest.raises(ConfigError, match=r"c1 of test_convnext has no weights.*are in c2. Set 'init.freeze=\[c2\]'"):
        net.freeze_(["c1"])
    assert all(parameter.requires_grad for parameter in net.parameters()) and net.frozen == ()
    net.freeze_(["c1", "c2"])
    assert not any(parameter.requires_grad for parameter in net.c2.parameters())


def test_refusals_name_encoders_that_can_be_dilated():
    for arch in importlib.import_module("segzoo.backbones._timm_networks").DILATABLE:
        with torch.device("meta"):
            assert BACKBONES.build("timm", arch=arch).set_output_stride_(8).output_stride == 8


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r'backbone=timm needs timm: pip install "segzoo\[timm\]"'):
        BACKBONES.build("timm")


def test_weights_that_do_not_exist_are_rejected(monkeypatch):
    with pytest.raises(ConfigError, match="torchvision's weights do not fit timm's resnet18. Set backbone.weights=hub"):
        BACKBONES.build("timm", weights="imagenet")
    with pytest.raises(ConfigError, match="backbone.weights=hub: timm has no weights of resnet50x"):
        monkeypatch.setattr(timm, "is_model", lambda name: True)
        BACKBONES.build("timm", arch="resnet50x", weights="hub")
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(ConfigError, match=r"could not load the weights of resnet18 \(OSError: no route to host\).*weights=<path>"):
        BACKBONES.build("timm", weights="hub")


def test_normalization_follows_the_weights(tmp_path, weight_file):
    half = ((127.5,) * 3, (127.5,) * 3)
    assert encoder_normalization("resnet50.a1_in1k", "hub") == IMAGENET
    assert encoder_normalization("tf_efficientnetv2_b0.in1k", "hub") == encoder_normalization("tf_efficientnetv2_b0", "hub")
    assert encoder_normalization("rexnetr_200.sw_in12k", "hub") == IMAGENET
    assert encoder_normalization("mixnet_s", "hub") == IMAGENET
    assert encoder_normalization("tf_mixnet_s.in1k", weight_file("resnet10t")) == IMAGENET
    assert encoder_normalization("tf_efficientnetv2_s.in21k", "hub") == half
    file = tmp_path / "model.safetensors"  # as the Hub stores it, next to the weights' own configuration
    save_file({"conv1.weight": torch.zeros(1)}, file)
    assert encoder_normalization("resnet10t", str(file)) == IMAGENET
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    assert encoder_normalization("resnet10t", str(file)) == half
    section = {"name": "timm", "arch": "tf_efficientnetv2_s.in21k", "weights": "hub"}
    config = {"data": {"name": "parts"}, "init": {}, "backbone": section}
    with pytest.raises(ConfigError, match=r"backbone.weights=hub was trained on images with mean \[127.5, 127.5, 127.5\]"):
        choose_normalization(config)


@torch.no_grad()
def test_sync_batch_norm_keeps_activations():
    net, x = randomized(encoder("mobilenetv3_small_050")), random_images(1, 3, 64, 64)
    expected, synchronized = net(x)["c5"], sync_batch_norm(copy.deepcopy(net))
    assert sum(isinstance(layer, nn.SyncBatchNorm) for layer in synchronized.modules()) == 34
    assert torch.equal(synchronized(x)["c5"], expected)


@torch.no_grad()
def test_channel_attention_trains_on_a_single_image():
    net = BACKBONES.build("timm", arch="rexnet_100").train()
    batch_norm = next(module for name, module in net.named_modules() if name.endswith(".se.bn"))
    before = batch_norm.running_mean.clone()
    with pytest.warns(UserWarning, match="batch norm of the channel attention .* received one value per channel"):
        net.forward_stages(random_images(1, 3, 64, 64))
    assert torch.equal(batch_norm.running_mean, before)
    net.forward_stages(random_images(2, 3, 64, 64))
    assert not torch.equal(batch_norm.running_mean, before)


def test_pruning_removes_channels_or_is_rejected_by_name():
    torch.manual_seed(0)
    model = randomized(create_model("fcn", backbone={"name": "timm", "arch": "resnet10t"}, num_classes=4)).eval()
    graph, pruned, x = trace_channels(model), copy.deepcopy(model), random_images(1, 3, 65, 65)
    half = select_channels(graph, {channel: 1.0 for group in graph.groups for channel in group}, 0.5)
    with channels_masked(model, graph, half):
        expected = model(x).main
    assert remove_channels_(pruned, graph, half)["backbone.c5.layer4.0.conv1"] == 256
    torch.testing.assert_close(pruned(x).main, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    with pytest.raises(ConfigError, match=r"in backbone.c2.blocks_0.0.conv_dw is a grouped convolution.*pruner.exclude"):
        PRUNERS.build("l1").check(meta_model("fcn", "mobilenetv3_small_050"))


# ---------------------------------------------------------------------------------------------- models

ENCODERS = (
    "resnet18",
    "resnet50d",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "regnety_004",
    "convnext_atto",
    "repvgg_a0",
    "rexnet_100",
    "resnetv2_50",
    "densenet121",
)
MODELS = {"fcn": {}, "parsenet": {"fc_channels": 32}, "deeplab_largefov": {"fc_channels": 32}, "pspnet": {}, "icnet": {}}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("arch", ENCODERS)
def test_every_model_trains_and_exports_on_every_family(model, arch, tmp_path):
    pytest.importorskip("onnxruntime", reason='pip install -e ".[export]"')
    settings = {"name": model} | MODELS[model]
    if arch == "densenet121" and model == "icnet":
        pytest.skip("timm cannot dilate it")
    if arch == "densenet121" and model != "fcn":
        settings["output_stride"] = 32
    workload = build_workload({"model": settings, "backbone": {"name": "timm", "arch": arch}}, num_classes=4)
    net = workload.model.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    scalar_loss(net(random_images(2, 3, 97, 129))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    optimizer.step()
    result = export_model(net.eval(), workload.info, {}, workload.images, tmp_path)
    assert min(row["agreement"] for row in result["parity"]) >= 0.999
    assert sum(row["classes"] for row in result["parity"]) > len(result["parity"]), "agreement of one class shows nothing"
