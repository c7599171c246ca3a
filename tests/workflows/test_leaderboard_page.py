"""The page and the tool of a leaderboard."""

from __future__ import annotations

import importlib
import json
import re
import sys

import pytest
from planted_runs import bench_row, plant_run, plant_times

from segzoo.workflows.leaderboard.page import leaderboard_page
from segzoo.workflows.leaderboard.ranking import rank_runs

HOSTILE = "<img src=x onerror=alert(1)>$\\frac{1}$"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of two protocols, a hostile name and a failure."""
    folder = tmp_path_factory.mktemp("runs")
    plant_run(folder / "fast", 1.0, 0)
    plant_run(folder / HOSTILE, 2.0, 1, model=HOSTILE)
    plant_run(folder / "slow", 1.5, 2)
    plant_run(folder / "flipped", 1.5, 3, flip=True)
    plant_run(folder / "failed", 1.0, 4, result={"error": f"ValueError: {HOSTILE}"})
    plant_times(folder / "bench", bench_row(0, 20.0), bench_row(1, 45.0), bench_row(2, 300.0))
    return folder


@pytest.fixture(scope="module")
def page(runs):
    return leaderboard_page(rank_runs(runs=(str(runs),), budget_ms=30.0, max_compared=0))


def test_names_become_no_markup_and_nothing_is_loaded(page):
    assert "<img" not in page and page.count("&lt;img src=x onerror=alert(1)&gt;") >= 3
    assert "default-src 'none'" in page and "<script" not in page
    assert not re.search(r"<link|\bsrc=(?!x )|url\((?!#)|@import", page)


def test_the_page_shows_the_front_the_budget_and_what_is_not_ranked(page):
    assert page.count('<tr class="front">') == 2 and page.count("<svg") == 1
    assert "Best below 30 ms: fast, mIoU" in page and "budget of 30 ms" in page
    assert re.search(r"<td>from 20 ms</td><td>fast</td>", page) and "<td>from 45 ms</td>" in page
    assert "<td>failed: ValueError: &lt;img" in page and "Scores of different tables are not comparable" in page


def test_without_matplotlib_the_page_says_so(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("segzoo.workflows.leaderboard.page.can_plot", lambda: False)
    page = leaderboard_page(rank_runs(runs=(str(runs),), max_compared=0))
    assert (
        "<svg" not in page and "No plots were drawn, because matplotlib is not installed" in page and '<tr class="front">' in page
    )


def test_an_empty_folder_gives_a_page(tmp_path):
    assert "No run with a score was found" in leaderboard_page(rank_runs(runs=(str(tmp_path),)))


@pytest.mark.integration
def test_the_tool_prints_and_writes_the_tables(runs, tmp_path, monkeypatch, capsys):
    tool = importlib.import_module("segzoo.tools.leaderboard")

    def run(*words: str) -> None:
        monkeypatch.setattr("sys.argv", ["leaderboard.py", *words])
        tool.main()

    words = ["where.model=icnet", "times.size=480x640", "sort=ms", "budget_ms=30"]
    run(str(runs), *words, f"out={tmp_path / 'out'}")
    printed = capsys.readouterr().out
    assert "Best below 30 ms: fast, mIoU" in printed and "not ranked:" in printed and "lower" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("config.yaml", "env.json", "leaderboard.csv", "leaderboard.json", "report.html", "run.lock")
    ]
    tables = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["tables"]
    assert [[row["name"] for row in table["rows"]] for table in tables] == [["fast", "slow"], ["flipped"]]
    monkeypatch.chdir(runs.parent)
    for wrong, message in (
        (["where.modell=icnet"], "there is no setting 'where.modell'"),
        (["sort=speed"], "sort='speed': expected one of miou"),
        (["nowhere"], "runs: nowhere is not a directory"),
        ([str(runs), f"out={tmp_path / 'out'}"], "already holds results of tools/leaderboard.py"),
        ([str(runs), "where.model=icnet,fcn"], "several values for a single run"),
    ):
        with pytest.raises(SystemExit) as ended:
            run(*wrong)
        assert message in str(ended.value)
