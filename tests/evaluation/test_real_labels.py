"""Scores of real label maps against torchmetrics, scikit-learn and NumPy."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from image_files import settings_from
from scipy import ndimage
from scored_maps import add_image
from sklearn.metrics import jaccard_score, precision_recall_fscore_support
from torch import nn

from segzoo.evaluation.evaluator import evaluate
from segzoo.evaluation.metrics import ConfusionMatrix
from segzoo.evaluation.scores.blobs import Blobs
from segzoo.evaluation.scores.build import build_scores
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.threshold import with_threshold
from segzoo.registry import DATA
from segzoo.types import Logits

DATA_ROOT = os.environ.get("SEGZOO_DATA")
pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA_ROOT, reason="SEGZOO_DATA is not set")]


def data_of(name):
    builder, options = settings_from(name)
    return DATA.build(builder, "val", **options)


class Every:
    """Every n-th image of a data set."""

    def __init__(self, data, step):
        self.data, self.info, self.indices = data, data.info, range(0, len(data), step)

    def scan(self):
        """Do nothing, as the data set finds its files."""

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.data[self.indices[index]]

    def image(self, index):
        return self.data.image(self.indices[index])

    def name(self, index):
        return self.data.name(self.indices[index])


def test_scores_of_camvid_labels_equal_other_libraries():
    from torchmetrics.classification import MulticlassJaccardIndex

    data = data_of("camvid")
    classes = data.info.classes
    labels = np.stack([data[index].label for index in range(0, 30, 6)])
    preds = np.roll(labels, (3, -5), (1, 2))
    preds[preds == 255] = 3
    preds[preds == 10] = 7  # never predicts a class
    labels[labels == 8] = 255  # no longer labels another one, which is still predicted
    matrix = ConfusionMatrix(11)
    matrix.update(preds, labels)
    scores, valid = matrix.scores(classes, images=len(labels)), labels != 255
    present = np.unique(labels[valid])
    assert scores.per_class[classes[8]]["iou"] is None and scores.classes_present == len(present)
    iou: Any = jaccard_score(labels[valid], preds[valid], labels=range(11), average=None, zero_division=0)  # type: ignore[arg-type]
    oracle: Any = precision_recall_fscore_support(labels[valid], preds[valid], labels=range(11), zero_division=0)  # type: ignore[arg-type]
    metric = MulticlassJaccardIndex(11, ignore_index=255, average="none")
    other = metric(torch.from_numpy(preds.astype(np.int64)), torch.from_numpy(labels.astype(np.int64)))
    for k in present:
        entry, hit = scores.per_class[classes[k]], ((preds == k) & (labels == k)).sum()
        union = (((preds == k) & valid) | (labels == k)).sum()
        assert entry["iou"] == pytest.approx(iou[k]) == pytest.approx(hit / union) == pytest.approx(float(other[k]), abs=1e-6)
        assert entry["acc"] == pytest.approx(oracle[1][k]) and entry["f1"] == pytest.approx(oracle[2][k])
        assert (entry["precision"] or 0) == pytest.approx(oracle[0][k])
    assert scores.miou == pytest.approx(iou[present].mean()) and scores.miou_foreground is None
    labels[0, 0, 0] = 11
    with pytest.raises(ValueError, match="labels contain 11"):
        ConfusionMatrix(11).update(preds, labels)


def test_planted_predictions_of_bsdata_have_their_recall():
    """Every third pitting is missed, and a false one is planted in each image."""
    data, score, number, found, images = (
        data_of("bsdata"),
        Blobs(("background", "pitting"), 255, (1,), (0.1, 0.9), 1, 0.6, True),
        0,
        0,
        0,
    )
    for index in range(len(data)):
        label = data[index].label
        find: Any = ndimage.label  # typed as an int or a pair
        blobs, count = find(label == 1, np.ones((3, 3)))
        probability = np.zeros(label.shape, np.float32)
        for blob in range(1, count + 1):
            probability[blobs == blob] = 0.15 if number % 3 == 0 else 0.65
            found, number = found + (number % 3 != 0), number + 1
        row, column = next((r, c) for r in range(0, 400, 8) for c in range(0, 400, 8) if not label[r : r + 6, c : c + 6].any())
        probability[row + 1 : row + 4, column + 1 : column + 4] = 0.55
        images += 1
        probabilities = np.stack([1 - probability, probability])
        add_image(score, index, probabilities.argmax(0).astype(np.uint8), label, probabilities)
    result = score.result()
    per_class = result.values["per_class"]["pitting"]
    assert per_class["blobs"] == number > 50 and per_class["recall"] == {"0.1": found / number, "0.9": found / number}
    assert per_class["predicted_blobs"] == found + images and per_class["precision"]["0.9"] == found / (found + images)
    assert result.values["thresholds"]["pitting"]["0.9"]["threshold"] == 0.65
    header, *rows = result.tables["operating_curve.csv"]
    for row in rows[:99]:
        point: dict[Any, Any] = dict(zip(header, row, strict=True))
        threshold = point["threshold"]
        expected = 1.0 if threshold <= 0.15 else found / number if threshold <= 0.65 else 0.0
        assert point["recall 0.1"] == point["recall 0.9"] == expected


class DarkSpots(nn.Module):
    """A detector of dark spots: the difference from the mean around a pixel."""

    align_corners, num_classes = False, 2

    def forward(self, x):
        gray = x.mean(1, keepdim=True)
        return Logits(torch.cat([torch.zeros_like(gray), 4 * (self.mean(gray, 81) - self.mean(gray, 9)) - 3], 1))

    @staticmethod
    def mean(x, size):
        rows = nn.functional.avg_pool2d(x, (size, 1), 1, (size // 2, 0), count_include_pad=False)
        return nn.functional.avg_pool2d(rows, (1, size), 1, (0, size // 2), count_include_pad=False)


def test_the_operating_curve_of_bsdata():
    data = Every(data_of("bsdata"), 13)

    def run(threshold):
        scores = build_scores(data.info, scores=("blobs",), blob_recall=0.5, blob_curve=threshold is None)
        protocol = with_threshold(InferenceProtocol(), data.info, threshold=threshold)
        return evaluate(DarkSpots(), data, data.info, protocol=protocol, extra=scores, device="cpu", workers=0).extra["blobs"]

    result = run(None)
    header, *rows = result.tables["operating_curve.csv"]
    recalls: list[Any] = [dict(zip(header, row, strict=True))["recall 0.1"] for row in rows[:99]]
    assert recalls == sorted(recalls, reverse=True) and recalls[0] > 0.5 > recalls[-1]
    chosen = result.values["thresholds"]["pitting"]["0.1"]
    assert chosen["recall"] >= 0.5 and recalls[round(100 * chosen["threshold"])] < 0.5  # the next threshold finds too few
    again = run({"pitting": chosen["threshold"]}).values
    assert again["per_class"]["pitting"]["recall"]["0.1"] == pytest.approx(chosen["recall"], abs=0.01)
    assert again["per_class"]["pitting"]["precision"]["0.1"] == pytest.approx(chosen["precision"], abs=0.01)
