"""HTML templates: escaping, missing values, packaging and pages without external files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import segzoo.reporting
from segzoo.pruning.sensitivity import SensitivityCurve
from segzoo.reporting.html import render_template
from segzoo.workflows.benchmark.report import page
from segzoo.workflows.prune.report import write_report

TEMPLATES = sorted((Path(segzoo.reporting.__file__).parent / "templates").iterdir())
SCRIPT = "<script>alert('x')</script>"
ESCAPED = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"


def benchmark_page() -> str:
    milliseconds = {"p50": 10.0, "p90": 12.0, "p99": 15.0}
    timed = {
        "model": SCRIPT,
        "backbone": "resnet50",
        "runtime": "eager",
        "precision": "fp32",
        "batch": 1,
        "hw": [64, 96],
        "machine": {"cpu": SCRIPT, "threads": 2, "gpu": None},
        "ms_per_image": milliseconds,
        "ms_per_batch": milliseconds,
        "images_per_s": 100.0,
        "build_s": 0.5,
        "first_call_ms": 40.0,
        "params": 1000,
        "gmacs": 2.0,
        "agreement": 1.0,
        "share_of_peak": 0.5,
        "peak_memory_mb": 90.0,
    }
    return page([timed, {"model": SCRIPT, "runtime": "openvino", "error": SCRIPT}])


def pruning_page(folder: Path) -> str:
    row = {"what": SCRIPT, "miou": 0.5, "miou_interval": (0.45, 0.55), "params": 1000, "gmacs": 2.0}
    times = {side: [{"runtime": "openvino", "error": SCRIPT}] for side in ("before", "after")}
    curve = SensitivityCurve(0, (SCRIPT,), 8, {1.0: 1.0, 0.75: 1.1, 0.5: 1.3, 0.25: 2.0})
    write_report(folder, [row], times, [curve])
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["benchmark", "pruning"])
def test_markup_in_names_is_escaped(kind, tmp_path):
    html = benchmark_page() if kind == "benchmark" else pruning_page(tmp_path)
    assert "<script" not in html and html.count(ESCAPED) >= 3
    assert "&lt;svg" not in html and "&lt;td" not in html, "markup of the templates themselves is not escaped"


@pytest.mark.parametrize("kind", ["benchmark", "pruning"])
def test_a_page_opens_from_disk_without_other_files(kind, tmp_path):
    html = benchmark_page() if kind == "benchmark" else pruning_page(tmp_path)
    assert html.startswith("<!doctype html>") and html.endswith("</html>\n") and '<meta charset="utf-8">' in html
    assert not re.search(r"<link|<script|\bsrc=|\bhref=|url\(|@import", html)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert '<table class="bars' in html and "None" not in re.sub(r"<[^>]*>", "", html)


def test_a_value_that_is_not_given_is_an_error():
    with pytest.raises(UndefinedError, match="columns"):
        render_template("pruning_report.html", title="", run=None, rows=[], verdicts=[], sensitivity=None)


def test_every_template_is_listed_as_package_data():
    import configparser

    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    pattern = setup["options.package_data"]["segzoo.reporting"]
    assert {path.name for path in TEMPLATES} >= {
        "base.html",
        "benchmark_report.html",
        "image_page.html",
        "image_page.js",
        "pruning_report.html",
    }
    assert all(path.relative_to(path.parents[1]).match(pattern) for path in TEMPLATES)


@pytest.mark.parametrize("module", ["segzoo.cli.app", "segzoo.config.validate", "segzoo.reporting.html", "segzoo.reporting.tables"])
def test_importing_loads_no_template_engine(module):
    code = f"import sys, {module}; assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
