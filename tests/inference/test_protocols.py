"""Windows, scales and flips agree with whole images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_training import INFO, Toy, ToyData

from segzoo.device import Precision
from segzoo.evaluation.evaluator import evaluate
from segzoo.inference import segment
from segzoo.inference.passes import logit_store, score_rows
from segzoo.inference.passes.logit_store import LogitStore
from segzoo.inference.passes.windows import window_weights
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.segment import predict_probabilities, segment_image
from segzoo.losses._base import downsample_labels
from segzoo.registry import ConfigError
from segzoo.types import Logits

FP32 = Precision("fp32", torch.device("cpu"))
DATA = ToyData(3, first=40, vary=True)
PROTOCOLS: dict[str, dict[str, Any]] = {
    "whole": {},
    "flip": {"flip": True},
    "flip_logits": {"flip": True, "average": "flip_logits"},
    "slide": {"crop": (16, 12), "stride": (5, 7)},
    "gaussian": {"crop": (16, 12), "window_weights": "gaussian", "batch": 3},
    "slide_logits": {"crop": (16, 12), "average": "logits", "flip": True},
    "scales": {"scales": (0.5, 1.0, 1.75), "flip": True},
    "pspnet_ms": {"crop": (20, 20), "scales": (0.5, 1.0, 1.5), "flip": True, "average": "flip_logits", "batch": 4},
    "pad": {"pad_multiple": 8, "scales": (1.0, 1.5)},
    "resize": {"resize_multiple": 32},
    "input_hw": {"input_hw": (40, 30), "scales": (0.7, 1.0)},
    "input_labels": {"input_hw": (40, 30), "label_size": "input"},
}


class Pointwise(nn.Module):
    """Scores each pixel by its own color, with fixed weights."""

    align_corners, num_classes = False, 3

    def forward(self, x):
        weight = torch.tensor([[1.0, -0.5, 0.25], [-0.75, 1.0, 0.5], [0.5, 0.25, -1.0]])
        return Logits(F.conv2d(x, weight[:, :, None, None]))


def image_of(height: int, width: int) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def labels_of(model: nn.Module, x: torch.Tensor, **protocol: Any) -> torch.Tensor:
    model.eval()
    image = torch.zeros(1, *x.shape[2:], 3, dtype=torch.uint8)
    return segment_image(model, x, image, InferenceProtocol(**protocol), FP32)


@torch.no_grad()
def probabilities_of(model: nn.Module, x: torch.Tensor, **protocol: Any) -> torch.Tensor:
    model.eval()
    return predict_probabilities(model, x, InferenceProtocol(**protocol), FP32)


def toy() -> Toy:
    torch.manual_seed(3)
    return Toy()


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("weights", ["uniform", "gaussian"])
@pytest.mark.parametrize("flip", [False, True])
def test_windows_of_a_pointwise_network_equal_the_whole_image(average, weights, flip):
    x = image_of(45, 61)
    expected = labels_of(Pointwise(), x)
    assert len(expected.unique()) == 3
    for crop, stride, batch in (((20, 17), (7, 6), 4), ((16, 16), None, 1), ((64, 80), (9, 9), 2), ((5, 61), (3, 1), 8)):
        settings = {"crop": crop, "stride": stride, "batch": batch, "window_weights": weights, "average": average, "flip": flip}
        assert torch.equal(labels_of(Pointwise(), x, **settings), expected), settings


@pytest.mark.parametrize("name", ["flip", "flip_logits", "scales"])
def test_flipping_the_image_flips_the_labels(name):
    x, model = image_of(33, 47), toy()
    labels = labels_of(model, x, **PROTOCOLS[name])
    assert torch.equal(labels_of(model, x.flip(3), **PROTOCOLS[name]), labels.flip(2))
    assert not torch.equal(labels_of(model, x.flip(3)), labels_of(model, x).flip(2)), "the network itself is not symmetric"


def test_flipping_the_image_flips_what_windows_average():
    x, model = image_of(33, 47), toy()
    forth, back = (probabilities_of(model, view, crop=(16, 12), stride=(5, 7), flip=True) for view in (x, x.flip(3)))
    assert torch.allclose(back, forth.flip(3), atol=1e-6)


def test_a_scale_equals_an_enlarged_image():
    x, model = image_of(24, 32), toy()
    enlarged = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    scaled = probabilities_of(model, x, scales=(2.0,), average="logits")
    with torch.no_grad():
        logits = model(enlarged).main  # at stride 2: at the original size
    assert torch.allclose(scaled, logits.softmax(1), atol=1e-6)
    resized = probabilities_of(model, x, input_hw=(48, 64), average="logits")
    assert torch.allclose(resized, scaled, atol=1e-6)
    windows = probabilities_of(model, x, scales=(2.0,), crop=(48, 64))
    expected = F.interpolate(probabilities_of(model, enlarged), (24, 32), mode="bilinear", align_corners=False)
    assert torch.allclose(windows, expected, atol=1e-6)


def test_averages_match_the_formulas():
    x, model = image_of(24, 32), toy().eval()
    with torch.no_grad():
        straight, mirrored = (
            F.interpolate(logits, (24, 32), mode="bilinear", align_corners=False)
            for logits in (model(x).main, model(x.flip(3)).main.flip(3))
        )
    expected = {
        "probabilities": (straight.softmax(1) + mirrored.softmax(1)) / 2,
        "logits": ((straight + mirrored) / 2).softmax(1),
        "flip_logits": (straight + mirrored).softmax(1),  # as PSPNet's release
    }
    for average, probabilities in expected.items():
        assert torch.allclose(probabilities_of(model, x, flip=True, average=average), probabilities, atol=1e-6), average


def test_gaussian_weights():
    weights = window_weights((16, 33), "gaussian", torch.device("cpu"))
    assert (weights > 0).all() and torch.allclose(weights, weights.flip(0)) and torch.allclose(weights, weights.flip(1))
    sigma = 33 / 8
    assert weights[7, 16 + 4] / weights[7, 16] == pytest.approx(float(np.exp(-0.5 * (4 / sigma) ** 2)), rel=1e-5)


def test_the_batch_of_windows_does_not_change_the_protocol():
    x, model = image_of(45, 61), toy()
    one, five = (probabilities_of(model, x, crop=(20, 17), batch=batch) for batch in (1, 5))
    assert torch.allclose(one, five, atol=1e-6)
    assert InferenceProtocol(crop=(20, 17)).to_dict() == InferenceProtocol(crop=(20, 17), batch=5).to_dict()


def test_windows_run_in_batches():
    seen = []

    class Recorded(Pointwise):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    labels_of(Recorded(), image_of(45, 61), crop=(20, 17), stride=(10, 10), batch=4)  # 4 rows of 6 windows
    assert seen == [4] * 6


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_labeled_pixel_is_scored_once(name):
    protocol = InferenceProtocol(**PROTOCOLS[name])
    result = evaluate(toy(), DATA, INFO, protocol=protocol, device="cpu", workers=0)
    labels = [torch.from_numpy(DATA[index].label)[None] for index in range(len(DATA))]
    if name == "input_labels":
        labels = [downsample_labels(label, (40, 30), align_corners=False) for label in labels]
    assert result.confusion.sum() == sum(int((label != 255).sum()) for label in labels) > 0
    assert result.protocol["label_resolution"] == protocol.label_size


def test_labels_at_input_size_are_those_of_resized_images():
    x, model = image_of(24, 32), toy()
    resized = F.interpolate(x, (40, 30), mode="bilinear", align_corners=False)
    labels = labels_of(model, x, input_hw=(40, 30), label_size="input")
    assert torch.equal(labels, labels_of(model, resized)) and labels.shape == (1, 40, 30)


def test_every_protocol_has_its_own_id():
    ids = {str(InferenceProtocol(**settings).to_dict()) for settings in PROTOCOLS.values()}
    assert len(ids) == len(PROTOCOLS)


def test_a_scale_counts_once():
    with pytest.raises(ConfigError, match=r"protocol.scales=\[0.5, 1.0, 1.0\] holds 1 more than once"):
        InferenceProtocol(scales=(0.5, 1.0, 1.0))


def test_strips_do_not_change_the_scores(monkeypatch):
    x, model = image_of(45, 61), toy()
    at_once = {name: probabilities_of(model, x, **settings) for name, settings in PROTOCOLS.items()}
    with monkeypatch.context() as patch:  # logits that wait in a file keep every bit
        patch.setattr(logit_store, "MAX_KEPT", 0)
        for name, settings in PROTOCOLS.items():
            assert torch.equal(probabilities_of(model, x, **settings), at_once[name]), name
    monkeypatch.setattr(score_rows, "STRIP_SCORES", 3 * 61 * 2)
    for name, settings in PROTOCOLS.items():
        assert torch.allclose(probabilities_of(model, x, **settings), at_once[name], atol=1e-6), name


def test_logits_of_many_scales_equal_those_of_each():
    x, settings = image_of(40, 56), {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "flip": True}
    passes = [probabilities_of(Pointwise(), x, scales=(scale,), flip=True) for scale in settings["scales"]]
    assert torch.allclose(probabilities_of(Pointwise(), x, **settings), torch.stack(passes).mean(0), atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_store_writes_what_exceeds_its_limit_and_reuses_the_file(channels_last):
    store = LogitStore(100)
    all_logits = [torch.randn(2, 3, 130, 7).movedim(1, -1).contiguous().movedim(-1, 1) for _ in range(3)]
    all_logits = [each if channels_last else each.contiguous() for each in all_logits]
    kept = [[store.keep(image) for image in logits] for logits in all_logits]
    for rows, image in zip(sum(kept, []), torch.cat(all_logits), strict=True):
        for first, end in ((0, 130), (5, 6), (60, 129)):
            assert torch.equal(rows(first, end), image[:, first:end])
    assert store.kept == 3 * 130 * 7 and store._bytes == 5 * 4 * 3 * 130 * 7
    del kept[0], rows
    assert store.kept == 0
    again = [store.keep(image) for image in all_logits[0]]
    assert torch.equal(again[1](0, 130), all_logits[0][1]) and store._bytes == 5 * 4 * 3 * 130 * 7


def test_a_full_disk_is_named(monkeypatch):
    class Full:
        def seek(self, offset):
            pass

        def write(self, values):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    monkeypatch.setattr(logit_store, "MAX_KEPT", 0)
    with pytest.raises(OSError, match="in a temporary file in .*: No space left on device. Set TMPDIR") as raised:
        labels_of(toy(), image_of(40, 56), flip=True)
    assert raised.value.errno == 28


@pytest.mark.parametrize("settings", [{"scales": (0.5, 1.0), "flip": True}, {"crop": (16, 16)}], ids=str)
def test_progress_is_shown_inside_an_image(settings, monkeypatch):
    shown = []

    def with_progress(items, total, unit, action):
        done = list(items)
        shown.append((len(done), total, unit, action))
        return iter(done)

    monkeypatch.setattr(segment, "with_progress", with_progress)
    monkeypatch.setattr(score_rows, "STRIP_SCORES", 3 * 56 * 10)
    labels_of(toy(), image_of(40, 56), **settings)
    passes = 4 if "scales" in settings else 1
    assert shown == [(passes, passes, "passes", "segmenting"), (4, 4, "strips of rows", "segmenting")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": 128}, "protocol.crop=128, expected"),
        ({"crop": (64, 64), "stride": (-8, 8)}, r"protocol.stride=\(-8, 8\), expected"),
        ({"average": "mean"}, "protocol.average='mean', expected"),
        ({"window_weights": "x"}, "protocol.window_weights='x', expected"),
        ({"batch": 0}, "protocol.batch=0, expected"),
        ({"scales": (0.0,)}, r"protocol.scales=\(0.0,\), expected"),
        ({"flip": 1}, "protocol.flip=1, expected"),
    ],
)
def test_invalid_settings_are_rejected_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        InferenceProtocol(**settings)


def test_lists_and_numbers_of_numpy_are_those_of_python():
    given = InferenceProtocol(crop=[np.int64(64), 64], batch=np.int64(2), flip=np.True_, scales=[np.float32(1)])  # type: ignore[arg-type]
    assert given == InferenceProtocol(crop=(64, 64), batch=2, flip=True, scales=(1.0,)) and type(given.batch) is int
    assert InferenceProtocol(scales=[1]).one_pass  # type: ignore[arg-type]


def test_a_network_that_returns_a_tensor_is_told_what_it_must_return():
    class Plain(Pointwise):
        def forward(self, x):
            return super().forward(x).main

    with pytest.raises(TypeError, match=r"^Plain\.forward returned Tensor, expected segzoo\.types\.Logits\(main, aux\)$"):
        segment_image(Plain(), torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, 3, dtype=torch.uint8), InferenceProtocol(), FP32)
