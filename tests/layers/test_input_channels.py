"""Networks for images of other channels than RGB."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_models import assert_close_to_scale, build, random_images, randomized
from torch import nn

from segzoo.checkpoints.store import step_dir
from segzoo.checkpoints.writing import save_checkpoint
from segzoo.config.build import build_model
from segzoo.layers.channel_widths import adapted_weight, set_input_channels_
from segzoo.registry import BACKBONES, INITS, ConfigError
from segzoo.types import DatasetInfo
from segzoo.weights import load_backbone


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 7])
def test_weights_adapt_as_in_timm(channels):
    timm = pytest.importorskip("timm", reason='pip install -e ".[timm]"')
    weight = random_images(8, 3, 5, 5)
    torch.testing.assert_close(adapted_weight(weight, channels), timm.models.adapt_input_conv(channels, weight))


@pytest.mark.parametrize("name", ["icnet", "fcn"])
def test_a_gray_image_has_the_same_logits_in_one_channel_and_in_rgb(name):
    """Summed and scaled weights give equal outputs on replicated inputs."""
    torch.manual_seed(0)
    rgb = randomized(build(name)).eval()
    gray = random_images(1, 1, 64, 96)
    with torch.no_grad():
        expected = rgb(gray.expand(-1, 3, -1, -1)).main
        for channels in (1, 6):
            other = copy.deepcopy(rgb)
            other.set_input_channels_(channels)
            assert_close_to_scale(other(gray.expand(-1, channels, -1, -1)).main, expected)
            with pytest.raises(ValueError, match=rf"expected \(N, {channels}, H, W\)"):
                other(gray.expand(-1, 3, -1, -1))
    assert len(other.input_convs) == (2 if name == "icnet" else 1)


def test_one_image_has_the_same_labels_in_every_pixel_format():
    torch.manual_seed(0)
    rgb = randomized(build("icnet", num_classes=3)).eval()
    gray = copy.deepcopy(rgb)
    gray.set_input_channels_(1)
    deep, (mean, std) = copy.deepcopy(gray), ((110.0,), (55.0,))
    classes, palette = ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2))
    rgb.info = DatasetInfo("made", classes, palette, mean * 3, std * 3)
    gray.info = DatasetInfo("made", classes, palette, mean, std)
    deep.info = DatasetInfo("made", classes, palette, (257 * mean[0],), (257 * std[0],), bits=16)
    image = np.random.default_rng(0).integers(0, 256, (8, 12), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    expected = rgb.predict(image, probabilities=True)
    assert len(np.unique(expected.labels)) > 1
    for network, given in ((gray, image), (gray, image[..., None]), (deep, image.astype(np.uint16) * 257)):
        found = network.predict(given, probabilities=True)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
        assert (found.labels == expected.labels).mean() > 0.999
    with pytest.raises(ValueError, match=r"array of uint8 \(64, 96\), expected \(H, W, 1\) uint16"):
        deep.predict(image)


def test_backbones_load_weights_for_rgb_and_adapt_them(tmp_path):
    backbone = {"name": "resnet50", "stem": "deep", "width": 0.125, "weights": str(tmp_path / "rgb.pth")}
    torch.manual_seed(0)
    trained = BACKBONES.build("resnet50", stem="deep", width=0.125)
    torch.save(trained.state_dict(), backbone["weights"])
    model = build_model({"model": {"name": "fcn", "fc_channels": 16}, "backbone": backbone}, 2, channels=4)
    torch.testing.assert_close(model.backbone.c1[0].weight, adapted_weight(trained.c1[0].weight, 4))
    torch.testing.assert_close(model.backbone.c2.state_dict(), trained.c2.state_dict())


@pytest.mark.integration
def test_branches_of_one_pixel_are_adapted_but_not_channel_attention():
    pytest.importorskip("timm", reason='pip install -e ".[timm]"')
    torch.manual_seed(0)
    rgb = randomized(build("fcn_dilated", "timm", options={"arch": "repvgg_a0"})).eval()
    gray, other = random_images(1, 1, 64, 64), copy.deepcopy(rgb)
    other.set_input_channels_(1)
    assert len(other.input_convs) == 2
    with torch.no_grad():
        assert_close_to_scale(other(gray).main, rgb(gray.expand(-1, 3, -1, -1)).main)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.squeeze, self.excite = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)

        def forward(self, x):
            x = self.stem(x)
            return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)))

    assert set_input_channels_(Attention(), 4) == ("stem",)


@pytest.mark.integration
@pytest.mark.parametrize("branches", [124, 24])
def test_feature_maps_of_three_channels_are_no_images(branches):
    pytest.importorskip("timm", reason='pip install -e ".[timm]"')
    model = build("icnet", "timm", branches=branches, options={"arch": "mobilenetv3_small_100"}).eval()
    assert model.high[1].conv.in_channels == 3
    model.set_input_channels_(4)
    unused = {"high.1.conv", "high.2.conv"}  # with fewer branches, where it cannot be seen what they would read
    assert {*model.input_convs} - (unused if branches == 24 else set()) == {"backbone.c1.conv_stem", "high.0.conv"}
    with torch.no_grad():
        model(random_images(1, 4, 64, 64))


def test_a_network_that_reads_no_rgb_is_rejected():
    with pytest.raises(ValueError, match="no convolution of 3 input channels"):
        set_input_channels_(nn.Sequential(nn.Conv2d(5, 5, 3)), 4)


def test_checkpoints_of_rgb_start_networks_of_other_channels(tmp_path):
    torch.manual_seed(0)
    trained, classes = randomized(build("icnet", num_classes=2)), ("background", "part")
    info = DatasetInfo("made", classes, ((0, 0, 0), (9, 9, 9)))
    save_checkpoint(tmp_path / "rgb", 1, trained, {}, {}, info, {})
    model = build("icnet", num_classes=2)
    model.set_input_channels_(4)
    report = INITS.build("checkpoint", model, classes, ckpt=str(step_dir(tmp_path / "rgb", 1)))
    assert report.fraction == 1 and "adapted to images of 4 channels" in report.note
    for name in model.input_convs:
        weights = [net.get_submodule(name).weight for net in (model, trained)]
        torch.testing.assert_close(weights[0], adapted_weight(weights[1], 4))
    info = DatasetInfo("made", classes, ((0, 0, 0), (9, 9, 9)), (1.0,) * 4, (1.0,) * 4)
    save_checkpoint(tmp_path / "four", 1, model, {}, {}, info, {})
    with pytest.raises(ConfigError, match="takes images of 4 channels, and those of the data have 3"):
        INITS.build("checkpoint", trained, classes, ckpt=str(step_dir(tmp_path / "four", 1)))
    with pytest.raises(ConfigError, match="takes images of 4 channels, and only weights for RGB"):
        load_backbone(trained.backbone, str(step_dir(tmp_path / "four", 1)))
    again = copy.deepcopy(model)
    INITS.build("checkpoint", again, classes, ckpt=str(step_dir(tmp_path / "four", 1)))
    assert all(np.array_equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
