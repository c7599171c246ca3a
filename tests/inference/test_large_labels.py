"""Labels of images that are read in strips equal those in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from image_files import noise
from small_models import build, random_images, randomized
from torch import nn
from toy_training import INFO, Toy

from segzoo.device import Precision
from segzoo.inference.exported.network import ExportedNetwork
from segzoo.inference.large import source_rows, tiles
from segzoo.inference.large.labels import LargeImageLabeler, Tiling
from segzoo.inference.large.source_rows import SourceRows
from segzoo.inference.large.tiles import Reach, measure_reach, tile_starts
from segzoo.inference.passes import score_rows
from segzoo.inference.passes.forward_pass import ForwardPass
from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol
from segzoo.inference.segment import segment_image
from segzoo.inference.threshold import make_threshold
from segzoo.layers.normalize import normalize
from segzoo.layers.resize import enlarge_to_corners
from segzoo.registry import ConfigError
from segzoo.types import Logits

CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)
SLIDES: dict[str, dict[str, Any]] = {
    "uniform": {"crop": (64, 48)},
    "gaussian": {"crop": (48, 64), "stride": (20, 64), "window_weights": "gaussian", "batch": 3},
    "logits": {"crop": (64, 64), "average": "logits", "flip": True, "threshold": make_threshold(INFO, {"road": 0.4})},
    "pspnet_ms": {"crop": (64, 64), "scales": (0.5, 1.0, 1.5), "flip": True, "average": "flip_logits"},
}


class Stride8(nn.Module):
    """One layer whose corner logits lie on the corners of the image."""

    align_corners = True
    num_classes = 3

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 9, stride=8, padding=4)

    def forward(self, x):
        return Logits(self.layer(x))


class Enlarging(Stride8):
    """The same layer, which sees images with sides of 8k+1."""

    corner_multiple = 8

    def forward(self, x):
        return super().forward(enlarge_to_corners(x, self.corner_multiple))


@pytest.fixture(autouse=True)
def _short_strips(monkeypatch):
    monkeypatch.setattr(score_rows, "STRIP_SCORES", 2**11)
    monkeypatch.setattr(source_rows, "BLOCK", 8)
    monkeypatch.setattr(tiles, "PROBE", 512)


@pytest.fixture(scope="module")
def icnet():
    torch.manual_seed(0)
    model = randomized(build("icnet", num_classes=3)).eval()
    with torch.no_grad():  # so that each class is the best somewhere
        model.score.bias -= model(random_images(1, 3, 64, 64)).main.mean((0, 2, 3))
    return model


def toy():
    torch.manual_seed(1)
    return Toy().eval()


def in_memory(model, image, protocol):
    batch = torch.from_numpy(image)[None]
    return segment_image(model, normalize(batch, INFO, CPU), batch, protocol, FP32)[0].numpy()


def streamed(labeler, image):
    """Labels, and the largest number of image rows held."""
    read_to, held, parts = 0, 0, []

    def read(first, end):
        nonlocal read_to
        assert first == read_to, "rows are read once, in order"
        read_to = end
        return image[first:end]

    source = SourceRows(read, image.shape[:2], INFO, CPU)
    for first, end, labels in labeler.strips(source, "image"):
        assert first == sum(map(len, parts)) and len(labels) == end - first
        parts.append(labels.numpy())
        held = max(held, len(source._held))
    assert read_to == len(image)
    return np.concatenate(parts), held


@pytest.mark.integration
@pytest.mark.parametrize("name", SLIDES)
def test_windows_label_exactly_as_in_memory(icnet, name):
    image, protocol = noise(400, 150), InferenceProtocol(**SLIDES[name])
    labels, held = streamed(LargeImageLabeler(icnet, protocol, FP32), image)
    assert len(np.unique(labels)) > 1 and (labels == in_memory(icnet, image, protocol)).all()
    assert held < 300


def test_an_image_smaller_than_the_window(icnet):
    image, protocol = noise(50, 40), InferenceProtocol(crop=(64, 64))
    assert (streamed(LargeImageLabeler(icnet, protocol, FP32), image)[0] == in_memory(icnet, image, protocol)).all()


@pytest.mark.parametrize("settings", [{}, {"scales": (0.5, 1.5), "flip": True}], ids=["single", "scales"])
@pytest.mark.parametrize("model", [toy(), Stride8().eval(), Enlarging().eval()], ids=["toy", "stride8", "enlarging"])
def test_tiles_label_as_the_whole_image(model, settings):
    image, protocol = noise(421, 307), InferenceProtocol(**settings)
    labeler = LargeImageLabeler(model, protocol, FP32, tile=128)
    assert labeler.tiling and not labeler.tiling.reach.by_size and labeler.tiling.reach.margin == 32
    assert "those of the whole image" in labeler.tiling.describe()
    labels, held = streamed(labeler, image)
    assert len(np.unique(labels)) > 1 and (labels != in_memory(model, image, protocol)).mean() < 1e-4  # ties within rounding
    assert held < len(image) * (0.7 if protocol.single else 1)


@pytest.mark.integration
def test_tiles_of_a_deep_network_label_as_the_whole_image(monkeypatch):
    monkeypatch.setattr(tiles, "PROBE", 1024)
    torch.manual_seed(0)
    model, image = randomized(build("fcn_dilated", num_classes=3)).eval(), noise(590, 530)
    with torch.no_grad():  # so that each class is the best somewhere
        model.score.bias -= model(random_images(1, 3, 256, 256)).main.mean((0, 2, 3))
    labeler = LargeImageLabeler(model, SINGLE_PASS, FP32, tile=512)
    assert labeler.tiling and labeler.tiling.reach == Reach(224, False, 8) and len(tile_starts(590, 512, 224)) > 1
    labels, expected = streamed(labeler, image)[0], in_memory(model, image, SINGLE_PASS)
    assert len(np.unique(expected)) == 3 and (labels != expected).mean() < 1e-4  # ties within rounding


def test_tiles_of_a_network_that_looks_everywhere_say_so(icnet):
    labeler = LargeImageLabeler(icnet, SINGLE_PASS, FP32, tile=320)
    assert labeler.tiling and labeler.tiling.reach == Reach(tiles.GLOBAL_MARGIN, True, 4, corner=1)
    assert "labels are not those of the whole image" in labeler.tiling.describe()
    labels = streamed(labeler, noise(400, 150))[0]
    assert labels.shape == (400, 150)


@pytest.mark.parametrize(("kernel", "dilation", "margin"), [(3, 1, 32), (3, 40, 64), (5, 32, 64)])
def test_reach_is_that_of_the_layers(kernel, dilation, margin):
    class Dilated(Stride8):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 3, kernel, padding=dilation * (kernel // 2), dilation=dilation)
            nn.init.zeros_(self.layer.weight)  # zeros do not hide what a layer reads

    model = Dilated().eval()
    network = ForwardPass(model, SINGLE_PASS, FP32, (64, 64), 1.0)
    assert measure_reach(lambda x: network.logits(x, (64, 64)), CPU) == Reach(margin, False, 1)
    unknown = measure_reach(lambda x: network.logits(x, (64, 64)), CPU, spreads_nan=False)
    assert unknown.by_size and not unknown.is_known
    assert "How far the network sees is not known" in Tiling(512, unknown).describe()


@pytest.mark.parametrize(("name", "margin"), [("fcn_dilated", 224), ("fcn", 256), ("deeplab_largefov", 352)])
def test_logits_do_not_depend_on_the_size(name, margin, monkeypatch):
    monkeypatch.setattr(tiles, "PROBE", 1024)
    torch.manual_seed(0)
    model = randomized(build(name, num_classes=3)).eval()
    labeler = LargeImageLabeler(model, SINGLE_PASS, FP32)
    assert labeler.tiling and (labeler.tiling.reach.margin, labeler.tiling.reach.by_size) == (margin, False)


@pytest.mark.parametrize("size", [1, 100, 128, 129, 160, 1000])
def test_each_pixel_has_a_tile_with_margin(size):
    starts = tile_starts(size, 128, 32)
    assert starts[0] == 0 and all(start % 32 == 0 for start in starts) and starts == sorted(set(starts))
    for pixel in range(size):
        inside = [
            start
            for start in starts
            if (start == 0 or pixel >= start + 32) and (start + 128 >= size or pixel < start + 96) and pixel < start + 128
        ]
        assert inside, pixel


def test_settings_that_need_the_whole_image(icnet):
    with pytest.raises(ConfigError, match="protocol.pad_multiple needs the whole image in memory.*stream_megapixels"):
        LargeImageLabeler(icnet, InferenceProtocol(pad_multiple=8), FP32)
    with pytest.raises(ConfigError, match=r"tile=64: the receptive field of the network extends 32 pixels.*tile=128"):
        LargeImageLabeler(toy(), SINGLE_PASS, FP32, tile=64)


def test_an_exported_file_of_one_size_says_what_to_do():
    metadata = {
        "dataset": INFO.to_dict(),
        "input": "nhwc_uint8",
        "output": "both",
        "hw": [480, 640],
        "precision": "fp32",
        "align_corners": False,
    }
    network = ExportedNetwork(lambda images: [], metadata, "fp32")
    with pytest.raises(
        ConfigError, match=r"takes images of 480x640 pixels \(H x W\) only.*protocol=slide 'protocol.crop=\[480,640\]'"
    ):
        LargeImageLabeler(network, SINGLE_PASS, FP32)
