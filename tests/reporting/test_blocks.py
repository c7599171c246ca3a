"""Parts of report pages: plots, bars, matrices and images."""

from __future__ import annotations

import re

import numpy as np
import pytest
from image_files import noise
from matplotlib.figure import Figure
from parsed_page import ParsedPage

from segzoo.reporting.blocks import curves
from segzoo.reporting.blocks import panels as panels_module
from segzoo.reporting.blocks.bars import Bar, difference_bars, share_bar
from segzoo.reporting.blocks.curves import MAX_POINTS, curve, read_rows, thinned, training_plots
from segzoo.reporting.blocks.matrices import MAX_CLASSES, confusion_plot, confusion_table
from segzoo.reporting.blocks.panels import Example, embed_images, legend
from segzoo.reporting.blocks.plots import svg_plot
from segzoo.types import DatasetInfo

SCRIPT = "<script>alert('$x$')</script>"
INFO = DatasetInfo("toy", ("background", "nut", SCRIPT), ((0, 0, 0), (0, 255, 0), (0, 0, 255)))


def test_plots_take_the_colors_of_the_page_and_escape_names():
    plot = svg_plot(f"A {SCRIPT}", "a sentence", lambda axes: (axes.plot([0, 1], [1, 2], label=SCRIPT), axes.legend()))
    assert plot.svg.startswith('<svg class="plot"') and "var(--data)" in plot.svg and "var(--text)" in plot.svg
    assert not re.search(r"#01020|<style|<script|<metadata|https?://", plot.svg)
    page = ParsedPage(plot.svg)
    assert SCRIPT in page.text, "names are text of the page"
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert ids and all(str(name).startswith("a-") for name in ids) and len(ids) == len(set(ids))


def test_curves_of_a_training(tmp_path):
    rows = [f'{{"step": {step}, "epoch": 0, "split": "train", "loss": {1 / step}, "lr": 0.1}}' for step in range(1, 9)]
    rows += [f'{{"step": {step}, "epoch": 1, "split": "val", "loss": null, "mIoU": {step / 16}}}' for step in (4, 8)] + [
        '{"step": 9, "epo'
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows))
    read = read_rows(tmp_path / "metrics.jsonl")
    assert len(read) == 10 and read_rows(tmp_path / "other.jsonl") == []
    assert curve(read, "val", "mIoU")[1].tolist() == [0.25, 0.5] and len(curve(read, "val", "loss")[0]) == 0
    plots = training_plots(read, 8)
    assert [plot.title for plot in plots] == ["Loss", "mIoU on the validation images", "Learning rate"]
    assert "best checkpoint" in plots[1].svg and all(plot.caption.endswith(".") for plot in plots)
    assert training_plots([]) == []
    once = [row for row in read if row.get("mIoU") != 0.25]  # as a short training is scored
    assert [plot.title for plot in training_plots(once)] == ["Loss", "Learning rate"], "a single score is no curve"


def test_long_curves_are_averaged():
    steps = np.arange(1.0, 10 * MAX_POINTS + 1)
    short, means = thinned((steps, 2 * steps))
    assert len(short) == MAX_POINTS and short[0] == 5.5 and np.allclose(means, 2 * short)
    assert thinned((steps[:5], steps[:5]))[0].tolist() == [1, 2, 3, 4, 5]


def test_bars_and_intervals_lie_on_their_track():
    assert share_bar(0.25, (0.2, 0.3)) == Bar(0.0, 0.25, 0.2, 0.3) and share_bar(None) is None
    better, worse, missing = difference_bars([(0.1, (-0.1, 0.2)), (-0.05, None), (None, None)])
    assert missing is None and better is not None and worse is not None
    assert (better.start, better.end, better.low, better.high, better.zero) == pytest.approx((0.5, 0.75, 0.25, 1.0, 0.5))
    assert (worse.start, worse.end, worse.low) == (0.375, 0.5, None)
    assert difference_bars([(0.0, (0.0, 0.0))])[0] == Bar(0.5, 0.5, 0.5, 0.5, zero=0.5)


def test_the_confusion_matrix_is_normalized_by_row():
    table = confusion_table(np.array([[6, 2, 0], [1, 999, 0], [0, 0, 0]]), ("a", "b", "never labeled"))
    assert table.columns == ["a", "b", "never labeled"] and [name for name, _ in table.rows] == ["a", "b"] and not table.note
    (first, second, third), (fourth, *_) = (cells for _, cells in table.rows)
    assert (first.text, first.shade, first.marked) == ("75", 0.75, True) and (second.text, second.marked) == ("25", False)
    assert third.text == "" and fourth.text == "<1" and second.title == "a predicted as b: 25.00 %, 2 pixels"


def test_of_many_classes_the_most_confused_are_tabulated():
    size = 150
    matrix = np.diag(np.full(size, 1000)) + np.diag(
        np.arange(1, size), 1
    )  # class k is predicted as k + 1, the more the higher k is
    table = confusion_table(matrix, [f"c{k}" for k in range(size)])
    assert len(table.rows) == MAX_CLASSES and len(table.columns) == MAX_CLASSES + 1 and table.columns[-1] == "others"
    assert table.columns[-2] == "c148" and "30 of 150" in table.note
    for name, cells in table.rows:
        assert sum(cell.shade for cell in cells) == pytest.approx(1.0), name
        assert all(cell.shade >= 0 and "-0.00" not in cell.title for cell in cells)
    svg = confusion_plot(matrix).svg
    assert "data:image/png;base64," in svg and len(svg) < 500_000


def test_images_are_embedded_below_a_limit(monkeypatch):
    image, label = noise(300, 400), np.zeros((300, 400), np.uint8)
    label[:5, :5], label[50:] = 1, 255
    examples = [Example("a", "", image, label, {"model": np.full((300, 400), 2, np.uint8)}) for _ in range(3)]
    embed_images(examples, INFO)
    assert [title for title, _ in examples[0].views] == ["image", "ground truth", "prediction", "errors"]
    assert [name for name, _ in legend(examples, INFO)] == [
        "nut",
        SCRIPT,
        "ignored",
        "error: missed",
        "error: false alarm",
        "error: wrong class",
    ]
    size = sum(len(uri) for example in examples for _, uri in example.views)
    monkeypatch.setattr(panels_module, "MAX_BYTES", size // 2)
    embed_images(examples, INFO)
    assert sum(len(uri) for example in examples for _, uri in example.views) <= size // 2


def test_small_errors_stay_visible_in_large_images():
    image, label = np.zeros((2000, 2000, 3), np.uint8), np.zeros((2000, 2000), np.uint8)
    label[1000:1003, 1000:1003] = 1
    view = panels_module._error_view(panels_module.downscale_image(image, (480, 480)), label, np.zeros_like(label), INFO)
    assert (view == (255, 0, 255)).all(-1).any(), "the missed blob"


def test_scores_are_drawn_in_percent_with_the_best_marked():
    axes = Figure().add_subplot()
    curves._draw_score(axes, (np.array([4.0, 8.0]), np.array([0.25, 0.5])), 8)
    line, best = axes.get_lines()
    assert np.allclose(line.get_xydata(), [[4, 25], [8, 50]]) and np.allclose(best.get_xydata(), [[8, 50]])
    assert axes.get_ylim() == (0, 52.5)
