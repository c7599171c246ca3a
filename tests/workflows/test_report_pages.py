"""Report pages of evaluations and comparisons."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from image_files import save
from parsed_page import check_page
from planted_evaluations import store_evaluation, store_run
from torch import nn

from segzoo.config.build import build_data
from segzoo.device import Precision
from segzoo.evaluation.bootstrap import mean_iou
from segzoo.evaluation.evaluator import evaluate
from segzoo.evaluation.label_files import evaluate_label_files
from segzoo.evaluation.report import write_summary
from segzoo.inference.protocol import SINGLE_PASS
from segzoo.reporting.blocks import plots as plots_module
from segzoo.types import DatasetInfo, Logits
from segzoo.workflows.compare.comparison import compare_evaluations
from segzoo.workflows.compare.evaluations import find_evaluations
from segzoo.workflows.report.comparison_page import report_comparison
from segzoo.workflows.report.failures import choose_examples, confusion_matrix, find_failures
from segzoo.workflows.report.page import write_page
from segzoo.workflows.report.provenance import changed_settings, command_line
from segzoo.workflows.report.run_page import predictor, report_evaluation

SCRIPT, NAME = "<script>alert(1)<", "<img src=x onerror=alert(1)>"
INFO = DatasetInfo(
    "toy", ("background", "nut", SCRIPT), ((0, 0, 0), (0, 255, 0), (0, 0, 255)), (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)
)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class ColorNet(nn.Module):
    """Predicts the class of the brightest color channel."""

    align_corners, num_classes, aux_weights = False, 3, ()

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(6.0))

    def forward(self, x):
        return Logits(self.scale * x)


def write_data(root: Path, images: int) -> None:
    """Write red images with two squares, and labels with planted errors.

    In image k, k rows of the green square are labeled as class 2.
    """
    for index in range(images):
        image, label = np.zeros((40, 64, 3), np.uint8), np.zeros((40, 64), np.uint8)
        image[..., 0] = 255
        image[5:25, 10:30], label[5:25, 10:30] = (0, 255, 0), 1
        image[5:25, 40:60], label[5:25, 40:60] = (0, 0, 255), 2
        label[5 : 5 + index, 10:30] = 2
        label[39] = 255
        stem = NAME if index == images - 1 else f"{index:02}"
        save(root / f"val/{stem}.png", image)
        save(root / f"val_masks/{stem}.png", label)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Any:
    """An evaluation of planted errors, with its report page."""
    root = tmp_path_factory.mktemp("report")
    write_data(root / "my", 12)
    patterns = {"images": "{split}/{stem}.*", "labels": "{split}_masks/{stem}.png", "palette": INFO.palette}
    data = {"name": "folder", "root": str(root / "my"), "classes": INFO.classes, "mean": INFO.mean, "std": INFO.std, **patterns}
    dataset, network, out = build_data(data, "val"), ColorNet().eval(), root / "out"
    result = evaluate(network, dataset, dataset.info, device="cpu", workers=0)
    write_summary(out, result, "0" * 64)
    meta = {"config": {section: {"name": section} for section in ("model", "backbone")}, "path": "nowhere", "step": 1}

    def report(**options):
        report_evaluation(out, network, dataset, meta, SINGLE_PASS, dict, device="cpu", **options)
        return out / "report.html"

    html = report().read_text(encoding="utf-8")
    return SimpleNamespace(out=out, dataset=dataset, network=network, result=result, report=report, html=html, data=data)


def test_the_errors_of_each_image_add_up_to_the_confusion_matrix(evaluated):
    counts, errors = evaluated.result.per_image_counts, evaluated.result.errors
    assert (confusion_matrix(counts, errors) == evaluated.result.confusion).all()
    assert (np.load(evaluated.out / "per_image_errors.npy") == errors).all()
    names = [evaluated.dataset.name(index) for index in range(12)]
    planted = {names.index(f"{index:02}"): 20 * index for index in range(1, 11)} | {names.index(NAME): 220}
    assert {image: pixels for image, label, prediction, pixels in errors.tolist() if (label, prediction) == (2, 1)} == planted
    assert len(errors) == 11


def test_the_cost_of_a_confusion_is_the_miou_that_it_takes():
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 50, (4, 5, 5)) + 100 * np.eye(5, dtype=int)
    matrices[:, 3] = 0  # never labeled, sometimes predicted
    counts = np.stack([matrices.diagonal(axis1=1, axis2=2), matrices.sum(2), matrices.sum(1)], axis=1)
    errors = np.array(
        [(n, a, b, matrices[n, a, b]) for n in range(4) for a in range(5) for b in range(5) if a != b and matrices[n, a, b]]
    )
    failures = find_failures(counts, errors, 30)
    assert len(failures) == 16 and [f.cost for f in failures] == sorted((f.cost for f in failures), reverse=True)
    for failure in failures:
        corrected = matrices.sum(0)
        pixels = corrected[failure.label, failure.prediction]
        corrected[failure.label, failure.prediction] = 0
        corrected[failure.label, failure.label] += pixels
        after = mean_iou(np.stack([corrected.diagonal(), corrected.sum(1), corrected.sum(0)]))
        assert failure.cost == pytest.approx(after - mean_iou(counts.sum(0)), abs=1e-12) and failure.pixels == pixels
        assert [n for _, n in failure.images] == sorted(filter(None, matrices[:, failure.label, failure.prediction]), reverse=True)


def test_the_worst_the_median_and_the_best_images_are_chosen():
    counts = np.zeros((20, 3, 2), np.int64)
    counts[:, 1:, 0] = 100
    counts[:, 0, 0] = np.random.default_rng(0).permutation(20)
    counts[3] = 0  # nothing is labeled
    groups, order = choose_examples(counts), np.argsort(counts[:, 0, 0])
    order = order[order != 3]
    assert groups == {"Worst images": [*order[:3]], "Median images": [*order[8:11]], "Best images": [*order[-3:]]}
    assert choose_examples(counts[:9]) == {"All images": [k for k in np.argsort(counts[:9, 0, 0]) if k != 3]}
    assert choose_examples(counts[3:4]) == {}


def test_a_page_shows_an_evaluation(evaluated):
    page = check_page(evaluated.html)
    scores, confusions = page.tables[:2]
    assert scores[0][2:4] == ["IoU %", "95 % interval"] and [row[0] for row in scores[1:]] == ["nut", SCRIPT, "background"]
    summary = json.loads((evaluated.out / "summary.json").read_text())
    assert [row[2] for row in scores[1:]] == [f"{100 * summary['per_class'][row[0]]['iou']:.1f}" for row in scores[1:]]
    assert confusions[0] == ["label \\ prediction", *INFO.classes] and confusions[1][1:] == ["100", "", ""]
    assert f"{SCRIPT} predicted as nut" in page.text and "1,320 pixels" in page.text and "in 11 of 12 images" in page.text
    assert f"Most of them in {NAME} (220 pixels), 10 (200 pixels)" in " ".join(page.text.split())
    assert "The weakest class is nut (IoU" in page.text and "background (IoU" not in page.text
    for title in ("Worst images", "Median images", "Best images", summary["protocol_id"], "0" * 64, summary["protocol"]["names"]):
        assert title in page.text
    images = page.elements("img")
    shown = [image["alt"] for image in images]
    assert len(shown) == 40 and shown.count(f"prediction of {NAME}") == 2, "nine images, and the one of the confusion again"


def test_the_images_are_predicted_as_they_were_evaluated(evaluated):
    predict = predictor(evaluated.network, INFO, SINGLE_PASS, Precision("fp32", torch.device("cpu")))
    sample = evaluated.dataset[3]
    hits, _, predicted = evaluated.result.per_image_counts[3]
    prediction, valid = predict(sample.image), sample.label != 255
    assert [(valid & (prediction == k)).sum() for k in range(3)] == predicted.tolist()
    assert [(valid & (prediction == k) & (sample.label == k)).sum() for k in range(3)] == hits.tolist()


def test_without_matplotlib_the_page_says_so(evaluated, monkeypatch):
    monkeypatch.setattr(plots_module, "is_installed", lambda name: False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (evaluated.out / "metrics.jsonl").write_text("")
    monkeypatch.setattr("segzoo.workflows.report.run_page.run_directory", lambda folder: folder)
    page = check_page(evaluated.report().read_text(encoding="utf-8"))
    assert 'no plots were drawn, because matplotlib is not installed: pip install "segzoo[plot]"' in page.text
    assert len(page.tables) == 2 and "<svg" not in page.html


def test_a_failure_is_one_line_and_leaves_no_old_page(tmp_path, capsys):
    def fail():
        raise RuntimeError("two\nlines")

    (tmp_path / "report.html").write_text("of former results")
    write_page(tmp_path, fail)
    assert capsys.readouterr().err == f"warning: {tmp_path / 'report.html'} was not written: RuntimeError: two lines\n"
    assert list(tmp_path.iterdir()) == []
    write_page(tmp_path, lambda: "page")
    write_page(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_commands_and_changes_are_as_one_would_type_them():
    assert command_line(["/home/me/segzoo/tools/train.py", "data.classes=[a,b]"]) == "python tools/train.py 'data.classes=[a,b]'"
    assert command_line(["/usr/bin/segzoo-train", "steps=1"]) == "segzoo-train steps=1" and command_line([]) == "unknown"
    changes = changed_settings({"steps": 5, "out": "x", "optim": {"lr": 0.1}}, {"steps": 9, "optim": {"lr": 0.1, "eps": 1}})
    assert changes == [("steps", "9", "5"), ("optim.eps", "1", "absent")]


def compared(tmp_path: Path, *paths: str, evaluations: Any = (), **options: Any):
    found = [*find_evaluations(paths), *evaluations]
    result = compare_evaluations(found, draws=1000, force=options.pop("force", False))
    report_comparison(tmp_path, result, found, options.pop("networks", {}), SINGLE_PASS, options.pop("data", None), **options)
    return result, check_page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_a_comparison_without_images_has_its_tables_and_the_reason(tmp_path):
    paths = [
        str(store_run(tmp_path / name, quality, number, lr=quality))
        for number, (name, quality) in enumerate(((SCRIPT, 2.0), ("b", 0.5)))
    ]
    result, page = compared(tmp_path, *paths)
    models, differences, classes, changed = page.tables[:4]
    assert [row[0] for row in models[1:]] == [SCRIPT, "b"] and [row[2] for row in models[1:]] == [
        f"{100 * model['miou']:.2f}" for model in result["models"]
    ]
    assert differences[1][0] == f"{SCRIPT} − b" and differences[1][-1] == f"{SCRIPT} is better" and len(classes) == 4
    assert [row[0] for row in changed[1:]] == [image["image"] for image in result["pairs"][0]["changed_images"]]
    assert "The images cannot be shown: " in page.text and not page.elements("img")
    assert f"{SCRIPT} and b: {SCRIPT} is better, by" in page.text


def test_unresolved_pairs_share_a_sentence(tmp_path):
    settings = (("best", 2.0, 0, 2.0), ("b", 0.5, 0, 0.5), ("c", 0.5, 1, 0.1))
    paths = [str(store_run(tmp_path / name, quality, seed, lr=lr)) for name, quality, seed, lr in settings]
    result, page = compared(tmp_path, *paths)
    assert [pair["verdict"] for pair in result["pairs"]] == ["best is better", "best is better", "not resolved"]
    assert page.text.count("best is better, by") == 2 and page.text.count("Not resolved, since") == 1
    assert re.search(r"Not resolved, since the difference in points of mIoU may be chance: b and c \([+-−]\d\.\d\d\)\.", page.text)


def test_changed_images_are_predicted_by_both_models(evaluated, tmp_path):
    root = tmp_path / "other"
    for index in range(12):
        prediction = np.zeros((40, 64), np.uint8)
        save(root / f"{evaluated.dataset.name(index)}.png", prediction)
    write_summary(tmp_path / "lab", evaluate_label_files(root, evaluated.dataset, 0))
    networks = {"out": evaluated.network}
    paths = [str(evaluated.out), str(tmp_path / "lab")]
    _, page = compared(tmp_path, *paths, networks=networks, preds={"lab": str(root)}, data=evaluated.data, device="cpu")
    views = [str(image["alt"]).rpartition(" of ")[0] for image in page.elements("img")]
    assert (
        views[:6] == ["image", "ground truth", "prediction of out", "errors of out", "prediction of lab", "errors of lab"]
        or len(views) == 18
    )
    assert "cannot be shown" not in page.text


def test_images_of_another_data_set_are_not_shown(evaluated, tmp_path):
    others = [str(store_evaluation(tmp_path / name, 1.0, number, images=12)) for number, name in enumerate("bc")]
    options = {"networks": {"out": evaluated.network}, "data": evaluated.data, "device": "cpu", "force": True}
    result, page = compared(tmp_path, str(evaluated.out), *others, **options)
    assert [bool(pair["changed_images"]) for pair in result["pairs"]] == [False, False, True]
    assert "Images of b and c are of another data set and cannot be shown." in page.text and not page.elements("img")


def test_too_few_groups_are_not_called_images(tmp_path):
    paths = [str(store_evaluation(tmp_path / name, 1.0, number)) for number, name in enumerate("ab")]
    found = find_evaluations(paths)
    report_comparison(tmp_path, compare_evaluations(found, group_by="(drive)", draws=1000), found, {}, SINGLE_PASS, None)
    assert "a and b: too few groups for a verdict." in check_page((tmp_path / "report.html").read_text(encoding="utf-8")).text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
def test_the_page_fits_into_a_browser(evaluated, tmp_path, width, scheme):
    probe = """<script>
    const main = document.documentElement, body = getComputedStyle(document.body);
    const broken = [...document.images].filter((image) => !image.naturalWidth).length;
    const result = { overflow: main.scrollWidth - main.clientWidth, broken, page: body.backgroundColor, text: body.color,
                     width: main.clientWidth };
    const element = document.createElement("pre"); element.id = "result"; element.textContent = JSON.stringify(result);
    document.body.append(element);
    </script></body>"""
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", evaluated.html)  # for the probe
    (tmp_path / "probed.html").write_text(html.replace("</body>", probe), encoding="utf-8")
    (tmp_path / "page.html").write_text(evaluated.html, encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={width},1000"]
    options += [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", "--dump-dom"]
    for name in ("page", "probed"):
        done = subprocess.run(
            [str(CHROMIUM), *options, (tmp_path / f"{name}.html").as_uri()], capture_output=True, text=True, timeout=120
        )
        assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout)
    assert found, done.stdout[-2000:]
    result = json.loads(found[1])
    assert result["overflow"] <= 0 and result["broken"] == 0
    assert (result["page"] == "rgb(255, 255, 255)") == (scheme == "light")
