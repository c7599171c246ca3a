"""Thresholds of class probabilities, from their definition to label maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from predictions import predict_source
from toy_training import INFO, Toy, ToyData

from segzoo.evaluation.evaluator import evaluate
from segzoo.evaluation.scores.blobs import THRESHOLDS
from segzoo.evaluation.scores.build import build_scores
from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol
from segzoo.inference.threshold import make_threshold, with_threshold
from segzoo.registry import ConfigError
from segzoo.types import DatasetInfo

DATA = ToyData(5, first=100, vary=True)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return Toy().eval()


def by_hand(probabilities, values):
    """The label of one pixel, by the definition."""
    reached = [k for k, value in values.items() if probabilities[k] >= np.float32(value)]
    rest = [k for k in range(len(probabilities)) if k not in values]
    return max(reached or rest, key=lambda k: probabilities[k])


@pytest.mark.parametrize("values", [{2: 0.3}, {1: 0.7}, {1: 0.2, 2: 0.25}, {0: 0.5, 1: 0.01}])
def test_labels_follow_the_definition(values):
    probabilities = torch.randn(3, 20, 30, generator=torch.Generator().manual_seed(0)).softmax(0)
    threshold = make_threshold(INFO, {INFO.classes[k]: value for k, value in values.items()})
    labels, columns = threshold(probabilities), probabilities.flatten(1).T.numpy()
    assert labels.flatten().tolist() == [by_hand(column, values) for column in columns]
    assert torch.equal(threshold(probabilities[None].expand(2, -1, -1, -1), dim=1), labels[None].expand(2, -1, -1))


def test_a_probability_equal_to_the_threshold_reaches_it():
    threshold = make_threshold(INFO, {"tree": 0.3})
    assert threshold(torch.tensor([[0.4], [0.3], [0.3]])).item() == 2
    assert threshold(torch.tensor([[0.4], [0.31], [0.29]])).item() == 0
    assert make_threshold(INFO, {"tree": 0.7})(torch.tensor([[0.1], [0.3], [0.6]])).item() == 1  # never below it


def test_invalid_thresholds():
    with pytest.raises(ConfigError, match="threshold: the class 'tre' is not known. Did you mean 'tree'"):
        make_threshold(INFO, {"tre": 0.3})
    with pytest.raises(ConfigError, match="every class has one"):
        make_threshold(INFO, dict.fromkeys(INFO.classes, 0.3))
    for value in (0, -0.1, 1.01, float("nan"), True, "half", None):
        with pytest.raises(ConfigError, match=r"expected a probability above 0 and up to 1, such as 'threshold=\{tree:0.3\}'"):
            make_threshold(INFO, {"tree": value})  # type: ignore[dict-item]
    parts = DatasetInfo("parts", ("background", "pit", "scratch"), INFO.palette)
    with pytest.raises(ConfigError, match="background is the background, which is left where no class reaches its threshold"):
        make_threshold(parts, {"pit": 0.3, "background": 0.5})
    with pytest.raises(ConfigError, match="Set post=none or 'threshold={}'"):
        with_threshold(InferenceProtocol(post=Blank()), INFO, threshold={"tree": 0.3})


def test_a_recorded_threshold_stays_unless_another_is_given():
    recorded = make_threshold(INFO, {"tree": 0.3})
    assert with_threshold(SINGLE_PASS, INFO) == SINGLE_PASS
    assert with_threshold(SINGLE_PASS, INFO, recorded).threshold is recorded
    assert with_threshold(SINGLE_PASS, INFO, recorded, threshold={}) == SINGLE_PASS
    assert with_threshold(SINGLE_PASS, INFO, recorded, threshold={"road": 0.4}).threshold == make_threshold(INFO, {"road": 0.4})


class Blank:
    def __call__(self, image, probabilities):
        return probabilities.argmax(1)

    def describe(self):
        return "blank"


@pytest.mark.parametrize("options", [{}, {"flip": True, "average": "logits"}, {"crop": (24, 24)}])
def test_the_operating_curve_equals_an_evaluation_with_the_threshold(model, options):
    def blobs(threshold, curve) -> Any:
        protocol = with_threshold(InferenceProtocol(**options), INFO, threshold=threshold)
        scores = build_scores(INFO, scores=("blobs",), defects=("tree",), blob_curve=curve)
        result = evaluate(model, DATA, INFO, protocol=protocol, extra=scores, device="cpu", workers=0)
        return result, scores[0]

    plain, curve = blobs(None, True)
    header, *rows = plain.extra["blobs"].tables["operating_curve.csv"]
    for point in (19, 34, 44):
        result, _ = blobs({"tree": float(THRESHOLDS[point])}, False)
        expected, values = dict(zip(header, rows[point], strict=True)), result.extra["blobs"].values
        assert values["per_class"]["tree"]["recall"] == {"0.1": expected["recall 0.1"], "0.5": expected["recall 0.5"]}
        assert values["per_class"]["tree"]["precision"] == {"0.1": expected["precision 0.1"], "0.5": expected["precision 0.5"]}
        assert values["reject_rate"] == expected["reject_rate"]
        assert result.protocol["threshold"] == f"tree={THRESHOLDS[point]:g}" and result.protocol_id != plain.protocol_id
    assert "threshold" not in plain.protocol and curve.curve.blobs[0] > 0


def test_prediction_and_evaluation_agree(model, tmp_path):
    from PIL import Image

    for index in range(5):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(DATA[index].image).save(tmp_path / "in" / f"{index}.png")
    protocol = with_threshold(SINGLE_PASS, INFO, threshold={"tree": 0.36, "road": 0.34})
    predict_source(model, INFO, tmp_path / "out", tmp_path / "in", protocol, overlays="none")
    counts = np.zeros((3, 3), np.int64)
    for index in range(5):
        pred, label = np.array(Image.open(tmp_path / "out/labels" / f"{index}.png")), DATA[index].label
        np.add.at(counts, (label[label != 255], pred[label != 255]), 1)
    result = evaluate(model, DATA, INFO, protocol=protocol, device="cpu", workers=0)
    assert (result.confusion == counts).all()
    assert (result.confusion != evaluate(model, DATA, INFO, device="cpu", workers=0).confusion).any()
