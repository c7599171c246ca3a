"""The action ``stats`` of tools/dataset.py: settings, page and plots."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from image_files import make_pairs, noise, save
from PIL import Image

from segzoo.config.build import build_data
from segzoo.data.balance.class_counts import count_classes
from segzoo.data.balance.class_weights import effective_number, inverse_sqrt, median_frequency
from segzoo.data.statistics.measure import SplitStatistics
from segzoo.registry import ACTIONS
from segzoo.reporting import statistics
from segzoo.reporting.blocks import plots as plots_module
from segzoo.reporting.blocks.bars import Bar

SCRIPT = "<script>alert('x')</script>"
PLOTS = [f"plots/{name}.png" for name in ("class_fractions", "blob_sizes", "image_sizes", "channels")]


@pytest.fixture
def root(tmp_path) -> Path:
    """Data set with two splits, without the class ``pit`` in val."""
    for split, stems, classes in (("train", "abcd", 3), ("val", "ef", 2)):
        make_pairs(tmp_path / "my", f"{split}/{{stem}}.png", f"{split}_masks/{{stem}}.png", list(stems), classes)
    save(tmp_path / "my/train/wide.png", noise(6, 24))
    save(tmp_path / "my/train_masks/wide.png", np.full((6, 24), 255, np.uint8))
    return tmp_path / "my"


@pytest.fixture(autouse=True)
def without_matplotlib(monkeypatch):
    """Draw no plots, which takes seconds."""
    monkeypatch.setattr(plots_module, "is_installed", lambda name: False)


def section(root: Path, **settings) -> dict:
    patterns = {"images": "{split}/{stem}.*", "labels": "{split}_masks/{stem}.png"}
    return {"name": "folder", "root": str(root), "classes": ["belt", "nut", "pit"], **patterns, **settings}


def run_stats(root: Path, out: Path, **settings):
    out.mkdir()
    return ACTIONS.build("stats", section(root, **settings), out)


def pasted(override: str) -> tuple[str, list[float]]:
    """Key and value of an override, as a shell and Hydra read it."""
    (parsed,) = OverridesParser.create().parse_overrides(shlex.split(override))
    return parsed.key_or_group, list(parsed.value())  # type: ignore[arg-type]


def test_settings_to_paste_are_measured_on_train(root, tmp_path):
    report = run_stats(root, tmp_path / "out")
    train = build_data(section(root), "train")
    pixels = np.concatenate([train.image(index).reshape(-1, 3) for index in range(len(train))])
    counts = count_classes(train)
    expected = {
        "mean": ("data.mean", pixels.mean(0).round(2)),
        "standard deviation": ("data.std", pixels.std(0).round(2)),
        "median frequency weights": ("loss.class_weights", median_frequency(counts)),
        "inverse square root weights": ("loss.class_weights", inverse_sqrt(counts)),
        "effective number weights": ("loss.class_weights", effective_number(counts)),
    }
    settings = report.result["settings"]
    assert settings.keys() == expected.keys() and report.result["measured_on"] == "train"
    for name, (key, values) in expected.items():
        found, numbers = pasted(settings[name])
        assert found == key and numbers == pytest.approx(values.tolist(), rel=1e-3) and settings[name] in report.text


def test_classes_and_sizes_of_both_splits_are_shown(root, tmp_path):
    report = run_stats(root, tmp_path / "out")
    train, val = report.result["splits"]["train"], report.result["splits"]["val"]
    assert train["images"] == 5
    assert train["sizes"] == [{"height": 6, "width": 8, "images": 4}, {"height": 6, "width": 24, "images": 1}]
    assert train["ignored_pixels"] == 6 * 24 and sum(one["pixels"] for one in train["classes"].values()) == 4 * 48
    assert val["classes"]["pit"] == {"fraction": 0, "pixels": 0, "images": 0, "blobs": 0, "blob_sizes": None}
    assert "| train | 5 | 2 | 6 | 8 to 24, median 8 | 1.333 to 4, median 1.333 | 42.86% |" in report.text
    assert re.search(r"\| pit \| \d+\.\d+% \| 4 \| \d+ \| \d+ \| \d+ \| \d+ \| 0\.000% \| 0 \| 0 \|  \|  \|  \|", report.text)


def test_the_page_needs_no_other_file_and_escapes_names(root, tmp_path):
    run_stats(root, tmp_path / "out", title=SCRIPT, classes=["belt", SCRIPT, "pit"])
    html = (tmp_path / "out/stats.html").read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and not re.search(r"<link|<script|\bsrc=|\bhref=|url\(|@import", html)
    assert (
        html.count("&lt;script&gt;") >= 4 and html.count('<table class="bars') == 2 and "None" not in re.sub(r"<[^>]*>", "", html)
    )
    assert re.findall(r'<span style="left: [\d.]+%">(\w+)<', html) == ["1", "10", "100"]
    assert "loss.class_weights=[" in html and "&lt;svg" not in html and "&lt;td" not in html


def test_the_absence_of_matplotlib_is_noted(root, tmp_path):
    report = run_stats(root, tmp_path / "out")
    note = 'no plots were drawn, because matplotlib is not installed: pip install "segzoo[plot]"'
    assert report.result["plots"] == [] and report.result["notes"] == [note] and f"note: {note}" in report.text
    assert not (tmp_path / "out/plots").exists() and "segzoo[plot]" in (tmp_path / "out/stats.html").read_text()


@pytest.mark.integration
@pytest.mark.filterwarnings("error::UserWarning")
def test_plots_are_drawn(root, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.undo()
    report = run_stats(root, tmp_path / "out", classes=["$a_b$", "洗", "pit"])
    assert report.result["plots"] == PLOTS and report.result["notes"] == []
    for plot in PLOTS:
        image = np.array(Image.open(tmp_path / "out" / plot))
        assert image.shape[1] > 400 and len(np.unique(image)) > 10


def test_labels_without_a_pixel_of_any_class_have_a_page(tmp_path):
    save(tmp_path / "my/val/a.png", noise(6, 8))
    save(tmp_path / "my/val_masks/a.png", np.full((6, 8), 255, np.uint8))
    report = run_stats(tmp_path / "my", tmp_path / "out")
    assert report.result["notes"][0] == "there is no train, so the settings were measured on val."
    assert pasted(report.result["settings"]["median frequency weights"])[1] == [1, 1, 1]
    assert (tmp_path / "out/stats.html").read_text().count('<table class="bars') == 1


def test_of_many_classes_the_rarest_are_drawn(tmp_path):
    classes = [f"c{index}" for index in range(302)]
    classes[255] = "ignore"
    save(tmp_path / "my/train/a.png", noise(20, 20))
    save(tmp_path / "my/train_masks/a.png", np.arange(400, dtype=np.uint16).reshape(20, 20) % 302)
    report = run_stats(tmp_path / "my", tmp_path / "out", classes=classes)
    assert len(report.result["splits"]["train"]["classes"]) == 301
    assert len(pasted(report.result["settings"]["median frequency weights"])[1]) == 302
    html = (tmp_path / "out/stats.html").read_text()
    assert (
        html.count('class="bar"') == 60 and '<td title="c97">' not in html and '<td title="c98">' in html
    )  # c0 to c97 have two pixels


def planted(class_counts, blobs=None) -> SplitStatistics:
    """Statistics of one constant gray image with these pixels of each class."""
    names = tuple(f"c{index}" for index in range(len(class_counts)))
    histogram = np.zeros((3, 256), np.int64)
    histogram[:, 100] = sum(class_counts)
    return SplitStatistics(
        names, np.array([class_counts]), 0, {(10, 10): 1}, blobs or {name: np.zeros(0) for name in names}, histogram
    )


def test_blob_sizes_lie_on_a_logarithmic_track():
    (row,) = statistics._blob_rows(planted([100], {"c0": np.full(9, 100)}), decades=4)
    assert row.bar == Bar(low=0.5, high=0.5, point=0.5) and row.cells == ["100", "100", "100"]


def test_weights_and_deviations_to_paste_are_valid_settings():
    settings = statistics.overrides(planted([10**9, 10**9, 1]))
    assert pasted(settings["standard deviation"])[1] == [0.01, 0.01, 0.01]
    assert pasted(settings["median frequency weights"])[1] == [1, 1, 1e6]
