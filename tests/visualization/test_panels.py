"""Panels of image, ground truth, prediction and errors."""

from __future__ import annotations

import numpy as np
from drawn_text import record_text

from segzoo.types import DatasetInfo
from segzoo.visualization.panels import SIDE, comparison_grid, comparison_panel, error_view

INFO = DatasetInfo("wear", ("background", "pit", "crack"), ((0, 0, 0), (230, 159, 0), (86, 180, 233)))
MAGENTA, CYAN, YELLOW = [255, 0, 255], [0, 255, 255], [255, 255, 0]


def test_errors_are_marked_by_their_kind():
    expected = np.array([[0, 1, 1, 1, 255, 0]], np.uint8)
    prediction = np.array([[0, 1, 0, 2, 1, 2]], np.int32)
    image = np.full((1, 6, 3), 100, np.uint8)
    view = error_view(image, expected, prediction, INFO)[0].tolist()
    assert view == [[50] * 3, [50] * 3, MAGENTA, YELLOW, [50] * 3, CYAN]
    plain = DatasetInfo("plain", ("sky", "pit", "crack"), INFO.palette)
    assert error_view(image, expected, prediction, plain)[0, [2, 3, 5]].tolist() == [YELLOW] * 3, "no class is a background"


def test_a_panel_shows_image_ground_truth_prediction_and_errors(monkeypatch):
    texts = record_text(monkeypatch)
    image, expected = np.full((30, 60, 3), 90, np.uint8), np.zeros((30, 60), np.uint8)
    expected[:, :30] = 1
    prediction = np.full((30, 60), 2)
    captions = ("a/very/long/path/" * 9 + "name", "ground truth", "prediction", "errors")
    panel = comparison_panel(image, expected, prediction, INFO, captions)
    assert panel.shape[1] == 4 * SIDE and panel.dtype == np.uint8
    assert texts[0].startswith("…") and texts[0].endswith("name") and texts[1:] == ["ground truth", "prediction", "errors"]
    left, right = ([panel[-100, number * SIDE + column].tolist() for number in range(4)] for column in (100, 300))
    assert left == [[90] * 3, [160, 124, 45], [88, 135, 162], YELLOW] and right == [[90] * 3, [90] * 3, [88, 135, 162], CYAN]
    texts.clear()
    grid = comparison_grid([panel, panel], [(expected, prediction)] * 2, INFO, "best checkpoint, step 3: mIoU 12.00")
    assert texts == ["best checkpoint, step 3: mIoU 12.00", "pit", "crack", "error: false alarm", "error: wrong class"]
    assert grid.shape[1] == panel.shape[1] and grid.shape[0] > 2 * panel.shape[0]


def test_tall_and_wide_images_keep_their_ratio():
    for size in ((1000, 50), (20, 3000), (3, 3)):
        panel = comparison_panel(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), np.zeros(size, np.uint8), INFO)
        assert panel.shape[1] == 4 * max(1, round(SIDE * size[1] / max(size)))
