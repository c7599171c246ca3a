"""Published numbers in README and benchmarks/ come from result files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import update_tables
from benchmarks.tables import formatting
from benchmarks.tables.formatting import with_front

ROOT = Path(__file__).parents[2]

MEASURED = re.compile(r"\d+(?:\.\d+)?\s*(?:%|ms\b|mIoU|img/s|images/s|fps|minutes|seconds)|mIoU\s*(?:of\s*)?\d|\b0\.\d{2,}\b")
PROVENANCE = ("command", "git", "machine", "versions")
# A pruning study names the commit of every training it compares, and some of those trainings ran with uncommitted changes.
TRAINED_WITH_CHANGES = {"pruning_others"}
every_page = pytest.mark.parametrize("page", update_tables.PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@every_page
def test_tables_match_the_result_files(page):
    text = page.read_text(encoding="utf-8")
    assert text == update_tables.fill_tables(text), "run python -m benchmarks update_tables"


@pytest.mark.parametrize("name", update_tables.FIGURES)
def test_figures_match_their_code(name):
    text = update_tables.FIGURES[name]()
    assert (update_tables.IMAGES / f"{name}.svg").read_text(encoding="utf-8") == text, "run python -m benchmarks update_tables"
    ElementTree.fromstring(text)
    assert f"benchmarks/images/{name}.svg" in (ROOT / "README.md").read_text(encoding="utf-8")


@every_page
def test_no_measured_number_outside_a_table(page):
    prose = re.sub(
        r"```.*?```|`[^`\n]*`", "", update_tables.BLOCK.sub("", page.read_text(encoding="utf-8")), flags=re.DOTALL
    )  # no commands
    assert MEASURED.findall(prose) == []


def test_measured_numbers_are_recognized():
    for text in ("it takes 12 ms", "mIoU 71.2", "a score of 0.83", "in 40 minutes", "30 fps"):
        assert MEASURED.search(text)


def test_every_page_of_benchmarks_is_checked():
    assert {*update_tables.PAGES} == {ROOT / "README.md", *(ROOT / "benchmarks").rglob("*.md")}


def test_every_table_is_on_a_page():
    on_pages = {
        name for page in update_tables.PAGES for _, name, _, _ in update_tables.BLOCK.findall(page.read_text(encoding="utf-8"))
    }
    assert on_pages == {*update_tables.TABLES}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").rglob("*.json")), ids=lambda path: path.stem)
def test_result_files_record_their_provenance(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert all(content.get(key) for key in PROVENANCE)
    assert re.fullmatch(r"[0-9a-f]{40}", content["git"]["commit"])
    assert content["git"]["changed"] is False, "the commit alone does not have the code that was measured"
    assert ('"changed": true' in json.dumps(content)) == (path.stem in TRAINED_WITH_CHANGES)
    assert not re.search(r"/(work|root|tmp|home)\b", path.read_text(encoding="utf-8")), "contains a path of the machine"


def test_rows_with_old_and_current_keys_give_the_same_cells(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.harness.result_files.RESULTS", tmp_path)
    old = {"device": "cpu", "norm": "of each rank", "batch_a_rank": 8, "times": [{"unable": "not installed"}]}
    current = {"device": "cpu", "norm": "per process", "batch_per_rank": 8, "times": [{"error": "not installed"}]}
    for name, row in (("old", old), ("current", current)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": [row]}))
    ((from_old,), (from_current,)) = formatting.read_rows("old"), formatting.read_rows("current")
    assert from_old | {"norm": formatting.current_term(from_old["norm"])} == from_current


def heading_anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


@every_page
def test_links_have_targets(page):
    for path, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {path}"
        assert not anchor or anchor in heading_anchors(target), f"{page.name}: {path}#{anchor}"


def test_the_front_of_a_table_counts_from_the_lowest_cost():
    rows = [{"ms": 30.0, "miou": 0.6}, {"ms": 10.0, "miou": 0.5}, {"ms": 20.0, "miou": 0.4}]
    assert [row["front"] for row in with_front(rows, "ms")] == [2, 1, None]
