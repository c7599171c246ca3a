"""VGG models compared with the authors' layer tables, on equal weights.

The tables are written in plain ``torch.nn.functional``.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segzoo.layers.norm import L2Norm
from segzoo.layers.resize import resize
from segzoo.models._fc6_fc7 import Fc6Fc7
from segzoo.models.deeplab_largefov import LargeFOV
from segzoo.registry import BACKBONES, MODELS, OPTIMS, ConfigError

CONVS = ((0, 2), (0, 2), (0, 2, 4), (0, 2, 4), (0, 2, 4))  # indices of the convolutions in each stage


def build(model, pool="caffe", num_classes=4, **settings):
    torch.manual_seed(0)
    built = MODELS.build(model, BACKBONES.build("vgg16", pool=pool), num_classes, **settings)
    for layer in built.modules():
        if isinstance(layer, nn.Conv2d) and not isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(
                layer.weight, std=(2 / layer.weight[0].numel()) ** 0.5
            )  # classifiers that start at zero would hide an error
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1)
    return built.eval()


def random_image(height, width, batch=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def stage(model, number, x, padding=1, dilation=1):
    layers = model.backbone.get_submodule(f"c{number}")
    for index in CONVS[number - 1]:
        conv = layers[index]
        x = F.relu(F.conv2d(x, conv.weight, conv.bias, padding=padding, dilation=dilation))
        padding = dilation
    return x


def conv(layer, x, **options):
    return F.conv2d(x, layer.weight, layer.bias, **options)


def assert_same(actual, expected):
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


# FCN, voc-fcn{32s,16s,8s,8s-atonce}/train.prototxt


def bilinear(classes, size):
    """The bilinear kernels of the authors' surgery.py.

    The outer product of 1 - |i - center| / f, on the diagonal of classes.
    """
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 else factor - 0.5
    tap = 1 - (torch.arange(size) - center).abs() / factor
    return torch.diag_embed((tap[:, None] * tap).expand(classes, size, size).permute(1, 2, 0)).permute(2, 3, 0, 1)


def released_fcn(model, x, stride, scales):
    pool = {"kernel_size": 2, "stride": 2, "ceil_mode": True}
    x1 = F.max_pool2d(stage(model, 1, x, padding=100), **pool)
    x2 = F.max_pool2d(stage(model, 2, x1), **pool)
    pool3 = F.max_pool2d(stage(model, 3, x2), **pool)
    pool4 = F.max_pool2d(stage(model, 4, pool3), **pool)
    pool5 = F.max_pool2d(stage(model, 5, pool4), **pool)
    fc7 = F.relu(conv(model.fc[3], F.relu(conv(model.fc[0], pool5))))
    scores, classes = conv(model.score, fc7), model.num_classes

    def cropped(blob, reference, offset):
        height, width = reference.shape[2:]
        return blob[:, :, offset : offset + height, offset : offset + width]

    if stride == 32:
        return cropped(F.conv_transpose2d(scores, bilinear(classes, 64), stride=32), x, 19)
    up2 = F.conv_transpose2d(scores, bilinear(classes, 4), stride=2)
    scores = up2 + cropped(conv(model.skips["c4"], pool4 * scales[0]), up2, 5)
    if stride == 16:
        return cropped(F.conv_transpose2d(scores, bilinear(classes, 32), stride=16), x, 27)
    up4 = F.conv_transpose2d(scores, bilinear(classes, 4), stride=2)
    scores = up4 + cropped(conv(model.skips["c3"], pool3 * scales[1]), up4, 9)
    return cropped(F.conv_transpose2d(scores, bilinear(classes, 16), stride=8), x, 31)


@torch.no_grad()
@pytest.mark.parametrize("size", [(33, 70), pytest.param((64, 47), marks=pytest.mark.integration)], ids=str)
@pytest.mark.parametrize("stride, at_once", [(32, False), (16, False), (8, False), (8, True)])
def test_fcn_equals_the_release(stride, at_once, size):
    model = build("fcn", stride=stride, geometry="pad100", fc_channels=24, at_once=at_once)
    x = random_image(*size)
    assert_same(model(x).main, released_fcn(model, x, stride, (0.01, 0.0001) if at_once else (1, 1)))


def test_released_fcn_has_the_published_sizes():
    with torch.device("meta"):
        model = MODELS.build("fcn", BACKBONES.build("vgg16", pool="caffe"), 21, geometry="pad100")
        sides = []
        firsts = [model.backbone.get_submodule(f"c{number}.0") for number in range(1, 6)]
        for layer in (*firsts, model.fc):
            layer.register_forward_hook(lambda _, __, out: sides.append(out.shape[-1]))
        assert model(torch.empty(1, 3, 500, 500)).main.shape == (1, 21, 500, 500)
    assert sides == [698, 349, 175, 88, 44, 16]


@pytest.mark.parametrize(
    "backbone, settings",
    [(("vgg16", {}), {}), (("resnet50", {"width": 0.125}), {}), (("vgg16", {"pool": "caffe"}), {"fc_channels": 0})],
    ids=["pools that round down", "resnet", "no fc6"],
)
def test_released_geometry_is_rejected_elsewhere(backbone, settings):
    name, options = backbone
    with pytest.raises(ConfigError, match=r"backbone=vgg16 backbone.pool=caffe.*model.geometry=same"):
        MODELS.build("fcn", BACKBONES.build(name, **options), 4, geometry="pad100", **settings)


# ParseNet


def parsenet_fc7(model, x):
    for number in (1, 2, 3):
        x = F.max_pool2d(stage(model, number, x), 2, 2, ceil_mode=True)
    x = F.max_pool2d(stage(model, 4, x), 3, 1, 1)
    x = F.max_pool2d(stage(model, 5, x, padding=2, dilation=2), 3, 1, 1)
    x = F.relu(conv(model.fc[0], x, padding=12, dilation=12))
    return F.relu(conv(model.fc[3], x))


def normalized(x, scale):
    return scale.view(1, -1, 1, 1) * x / (x.pow(2).sum(1, keepdim=True) + 1e-10).sqrt()


@torch.no_grad()
@pytest.mark.parametrize("size", [(65, 49), (50, 39)], ids=str)
def test_parsenet_equals_the_release(size):
    model = build("parsenet", fc_channels=24)
    for norm in (model.local_norm, model.global_norm):
        norm.scale.uniform_(5, 15)
    x = random_image(*size, batch=2)
    fc7 = parsenet_fc7(model, x)
    local = conv(model.score, normalized(fc7, model.local_norm.scale))
    context = conv(model.global_score, normalized(fc7.mean((2, 3), keepdim=True), model.global_norm.scale))
    assert_same(model(x).main, local + context.expand_as(local))


@torch.no_grad()
@pytest.mark.parametrize("rows, size", [(8, 64), (8, 57), (8, 60), (7, 63)])  # rounded up, and by pool vgg down
def test_parsenet_shifts_labels_as_documented(rows, size):
    scores = torch.arange(float(rows)).view(1, 1, rows, 1).expand(1, 1, rows, rows)
    tap = 1 - (torch.arange(16) - 7.5).abs() / 8
    release = F.conv_transpose2d(scores, (tap[:, None] * tap)[None, None], stride=8, padding=4)
    resized = resize(scores, (size, 8 * rows), align_corners=False)
    inside = slice(4, min(size, 8 * rows) - 4)  # at its border the release adds zeros, to the scores of all classes alike
    shift = 8 * (resized[0, 0, inside, 24] - release[0, 0, inside, 24])
    expected = (torch.arange(float(size)) + 0.5) * (8 * rows / size - 1)
    torch.testing.assert_close(shift, expected[inside], rtol=0, atol=2e-4)


@torch.no_grad()
def test_early_fusion_equals_late_fusion_with_one_bias():
    late, early = build("parsenet", fc_channels=24), build("parsenet", fc_channels=24, fusion="early")
    state = {k: v for k, v in late.state_dict().items() if not k.startswith(("score", "global_score"))}
    early.load_state_dict(state, strict=False)
    early.score.weight.copy_(torch.cat([late.score.weight, late.global_score.weight], 1))
    early.score.bias.copy_(late.score.bias + late.global_score.bias)
    x = random_image(48, 56)
    assert_same(early(x).main, late(x).main)


def test_scales_of_parsenet_train_at_the_base_rate_with_decay():
    model = MODELS.build("parsenet", BACKBONES.build("vgg16"), 21, fc_channels=16)
    optimizer = OPTIMS.build("sgd", model, lr=0.1, weight_decay=0.01, head_lr_mult=10.0)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for scale in (model.local_norm.scale, model.global_norm.scale):
        assert groups[id(scale)]["base_lr"] == 0.1 and groups[id(scale)]["weight_decay"] == 0.01
    assert groups[id(model.score.weight)]["base_lr"] == 1.0


def test_l2_norm_gives_unit_length_times_a_learned_scale():
    norm = L2Norm(6)
    assert torch.equal(norm.scale, torch.full((6,), 10.0)) and norm.scale.requires_grad
    x = random_image(6, 6).repeat(1, 2, 1, 1).requires_grad_()
    torch.testing.assert_close(norm(x).norm(dim=1), torch.full((1, 6, 6), 10.0))
    torch.testing.assert_close(norm(1000 * x), norm(x))
    zeros = torch.zeros(1, 6, 2, 2, requires_grad=True)
    norm(zeros).sum().backward()
    assert not norm(zeros).any() and zeros.grad is not None and zeros.grad.isfinite().all()
    assert norm(x.bfloat16()).dtype == torch.bfloat16


# DeepLab-LargeFOV, vgg128-LargeFOV and vgg128-ms-pool3 prototxts


def released_largefov(model, x):
    features = []
    for number in (1, 2, 3):
        x = F.max_pool2d(stage(model, number, x), 3, 2, 1, ceil_mode=True)
        features.append(x)
    x = F.max_pool2d(stage(model, 4, x), 3, 1, 1)
    features.append(x)
    x = F.max_pool2d(stage(model, 5, x, padding=2, dilation=2), 3, 1, 1)
    x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=True)
    x = F.relu(conv(model.fc[0], x, padding=12, dilation=12))
    return conv(model.score, F.relu(conv(model.fc[3], x))), features


@torch.no_grad()
@pytest.mark.parametrize("size", [(65, 49), (81, 33)], ids=str)
def test_largefov_equals_the_release(size):
    model = build("deeplab_largefov", pool="deeplab", fc_channels=24)
    x = random_image(*size)
    assert_same(model(x).main, released_largefov(model, x)[0])


def branch_scores(branch, x, stride):
    x = F.relu(conv(branch.wide, x, stride=stride, padding=1))
    return conv(branch.score, F.relu(conv(branch.mix, x)))


@torch.no_grad()
def test_multi_scale_branches_are_strided_only_in_training():
    model = build("deeplab_largefov", pool="deeplab", fc_channels=24, msc="frozen", dropout=0.0)
    x = random_image(65, 49)
    main, features = released_largefov(model, x)
    sources = [x, *features]
    branches = list(model.branches.values())
    in_training = main + sum(branch_scores(b, s, k) for b, s, k in zip(branches, sources, (8, 4, 2, 1, 1), strict=True))
    assert_same(model.train()(x).main, in_training)
    scores = [main, *(branch_scores(b, s, 1) for b, s in zip(branches, sources, strict=True))]
    in_eval = sum(F.interpolate(score, (65, 49), mode="bilinear", align_corners=True) for score in scores)
    assert_same(model.eval()(x).main, in_eval)


def test_branches_start_from_the_values_of_the_release():
    torch.manual_seed(0)
    model = MODELS.build("deeplab_largefov", BACKBONES.build("vgg16"), 21, msc="joint", fc_channels=16)
    deviations = {
        name: (float(branch.mix.weight.std()), float(branch.score.weight.std())) for name, branch in model.branches.items()
    }
    for name, (mix, score) in deviations.items():
        assert mix == pytest.approx(0.005 if name == "c4" else 0.001, rel=0.05)
        assert score == pytest.approx(0.0 if name == "c3" else 0.01, rel=0.1)


def test_frozen_msc_trains_only_the_branches():
    torch.manual_seed(0)
    model = MODELS.build("deeplab_largefov", BACKBONES.build("resnet50", width=0.125), 4, fc_channels=16, msc="frozen")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()(random_image(65, 65, batch=2)).main.square().mean().backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"branches"}
    assert all(p.grad is not None for p in model.branches.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())  # running statistics too
    joint = MODELS.build("deeplab_largefov", BACKBONES.build("resnet50", width=0.125), 4, fc_channels=16, msc="joint")
    assert all(p.requires_grad for p in joint.parameters())


@pytest.mark.parametrize("side, last", [(321, 41), (513, 65)])
def test_largefov_has_the_released_sizes(side, last):
    with torch.device("meta"):
        model = MODELS.build("deeplab_largefov", BACKBONES.build("vgg16", pool="deeplab"), 21)
        assert isinstance(model, LargeFOV)
        assert model(torch.empty(1, 3, side, side)).main.shape == (1, 21, last, last)


@pytest.mark.parametrize("kernel, dilation, channels", [(7, 4, 4096), (4, 4, 4096), (4, 8, 4096), (3, 4, 1024), (3, 24, 1024)])
def test_fields_of_view_of_the_paper_keep_the_feature_map_size(kernel, dilation, channels):
    with torch.device("meta"):
        backbone = BACKBONES.build("vgg16", pool="deeplab")
        model = MODELS.build("deeplab_largefov", backbone, 21, kernel=kernel, dilation=dilation, fc_channels=channels)
        assert model(torch.empty(1, 3, 65, 97)).main.shape == (1, 21, 9, 13)


def test_a_field_of_view_that_cannot_be_centered_is_rejected():
    with pytest.raises(ConfigError, match="model.kernel=4 with model.dilation=3.*even dilation or an odd kernel"):
        MODELS.build("deeplab_largefov", BACKBONES.build("vgg16"), 4, kernel=4, dilation=3, fc_channels=8)


# fc6 and fc7 from the classifier of VGG-16


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """A file of torchvision's VGG-16 with random weights.

    553 MB would be too much for a test, so its classifier repeats a small one.
    """
    from torchvision.models import vgg16

    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in vgg16(weights=None).state_dict().items()}
    state = {name: torch.randn(shape) * 0.02 for name, shape in shapes.items() if name.startswith("features")}
    state["classifier.0.weight"] = torch.randn(1, 25088).expand(4096, -1) * torch.arange(4096)[:, None]
    state["classifier.0.bias"] = torch.arange(4096.0)
    state["classifier.3.weight"] = torch.arange(4096.0)[:, None] * 10_000 + torch.arange(4096.0)
    state["classifier.3.bias"] = -torch.arange(4096.0)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(state, path)
    return path, state


@pytest.mark.slow
def test_classifier_becomes_convolutions(vgg_file, capsys):
    path, state = vgg_file
    full = MODELS.build("fcn", BACKBONES.build("vgg16", weights=str(path)), 4)
    assert torch.equal(full.fc[0].weight, state["classifier.0.weight"].view(4096, 512, 7, 7))
    assert torch.equal(full.fc[3].weight[..., 0, 0], state["classifier.3.weight"])
    assert not full.backbone.classifier
    sampled = MODELS.build("deeplab_largefov", BACKBONES.build("vgg16", weights=str(path)), 4)
    taps = [0, 3, 6]
    assert torch.equal(sampled.fc[0].weight, full.fc[0].weight[::4][:, :, taps][..., taps])
    assert torch.equal(sampled.fc[0].bias, state["classifier.0.bias"][::4])
    assert torch.equal(sampled.fc[3].weight[..., 0, 0], state["classifier.3.weight"][::4, ::4])
    assert "3x3 of 7x7 taps, 1024 of 4096 channels" in capsys.readouterr().out
    odd = MODELS.build("parsenet", BACKBONES.build("vgg16", weights=str(path)), 4, fc_channels=1000)
    assert odd.fc[0].out_channels == 1000 and "fc6 and fc7 are newly initialized" in capsys.readouterr().out


FC_NAMES = {"torchvision": ("classifier.0", "classifier.3"), "timm": ("pre_logits.fc1", "pre_logits.fc2"), "caffe": ("fc6", "fc7")}


def stored_classifier(width, side, layer="caffe", convolutions=True):
    """A VGG-16 whose weights had fc6 and fc7 of these sizes, and both weights as convolutions."""
    torch.manual_seed(0)
    weights = torch.randn(width, 512, side, side), torch.randn(width, width, 1, 1)
    state = {}
    for name, weight in zip(FC_NAMES[layer], weights, strict=True):
        state |= {f"{name}.weight": weight if convolutions else weight.flatten(1), f"{name}.bias": torch.arange(float(width))}
    with torch.device("meta"):
        backbone = BACKBONES.build("vgg16")
    backbone.store_classifier(state)
    return backbone, *weights


@pytest.mark.parametrize("convolutions", [False, True])
@pytest.mark.parametrize("layer", FC_NAMES)
def test_classifiers_of_every_library_and_size_are_read(capsys, layer, convolutions):
    backbone, fc6, fc7 = stored_classifier(16, 3, layer, convolutions)
    same = Fc6Fc7(512, 16, 3, 12, 0.5).init_from_vgg(backbone)
    assert torch.equal(same.get_parameter("0.weight"), fc6) and torch.equal(same.get_parameter("3.weight"), fc7)
    assert "3x3 of 3x3 taps, 16 of 16 channels" in capsys.readouterr().out
    half = Fc6Fc7(512, 8, 3, 12, 0.5).init_from_vgg(backbone)
    assert torch.equal(half.get_parameter("0.weight"), fc6[::2]) and torch.equal(half.get_parameter("3.weight"), fc7[::2, ::2])


def test_a_classifier_that_cannot_be_sampled_is_named_by_its_own_sizes(capsys):
    backbone, fc6, _ = stored_classifier(16, 3)
    larger = Fc6Fc7(512, 16, 7, 4, 0.5).init_from_vgg(backbone)
    assert larger[0].weight.shape != fc6.shape
    expected = "16 channels with 7x7 taps cannot be sampled from the weights (16, 512, 3, 3) and (16, 16, 1, 1) of the file"
    assert expected in capsys.readouterr().out
    backbone.classifier = {}
    backbone.store_classifier({"features.0.bias": torch.zeros(64)})
    assert "these weights hold no fc6 and fc7" in capsys.readouterr().out


def test_a_single_tap_is_the_one_in_the_middle():
    backbone, fc6, _ = stored_classifier(4, 7)
    fc = Fc6Fc7(512, 4, 1, 1, 0.5).init_from_vgg(backbone)
    assert torch.equal(fc.get_parameter("0.weight"), fc6[..., 3:4, 3:4])
