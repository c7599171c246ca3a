"""Published numbers: every one in README and benchmarks/ comes from a result file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import update_tables

ROOT = Path(__file__).parents[2]

MEASURED = re.compile(r"\d+(?:\.\d+)?\s*(?:%|ms\b|mIoU|img/s|images/s|fps|minutes|seconds)|mIoU\s*(?:of\s*)?\d|\b0\.\d{2,}\b")
PROVENANCE = ("command", "git", "machine", "versions")
every_page = pytest.mark.parametrize("page", update_tables.PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@every_page
def test_tables_are_what_the_result_files_say(page):
    text = page.read_text(encoding="utf-8")
    assert text == update_tables.fill_tables(text), "run python -m benchmarks update_tables"


@every_page
def test_no_figure_stands_outside_a_table(page):
    prose = re.sub(
        r"```.*?```|`[^`\n]*`", "", update_tables.BLOCK.sub("", page.read_text(encoding="utf-8")), flags=re.DOTALL
    )  # no commands
    assert MEASURED.findall(prose) == []


def test_the_search_for_orphans_finds_one():
    for orphan in ("it takes 12 ms", "mIoU 71.2", "a score of 0.83", "in 40 minutes", "30 fps"):
        assert MEASURED.search(orphan)


def test_every_page_of_benchmarks_is_checked():
    assert {*update_tables.PAGES} == {ROOT / "README.md", *(ROOT / "benchmarks").rglob("*.md")}


def test_every_table_stands_on_a_page():
    shown = {
        name for page in update_tables.PAGES for _, name, _, _ in update_tables.BLOCK.findall(page.read_text(encoding="utf-8"))
    }
    assert shown == {*update_tables.TABLES}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_results_carry_their_provenance(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    assert all(found.get(key) for key in PROVENANCE)
    assert re.fullmatch(r"[0-9a-f]{40}", found["git"]["commit"])
    assert not re.search(r"/(work|root|tmp|home)\b", path.read_text(encoding="utf-8")), "paths of a machine"


def heading_anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


@every_page
def test_links_lead_somewhere(page):
    for path, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {path}"
        assert not anchor or anchor in heading_anchors(target), f"{page.name}: {path}#{anchor}"
