"""No orphan numbers: what README and benchmarks/ claim to have measured stands in a result file, or the test fails."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import update_tables as tables

ROOT = Path(__file__).parents[1]

MEASURED = re.compile(r"\d+(?:\.\d+)?\s*(?:%|ms\b|mIoU|img/s|images/s|fps|minutes|seconds)|mIoU\s*(?:of\s*)?\d|\b0\.\d{2,}\b")
PROVENANCE = ("command", "git", "machine", "versions")


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.parent.name + "/" + page.name)
def test_tables_are_what_the_result_files_say(page):
    text = page.read_text(encoding="utf-8")
    assert text == tables.filled(text), "run python -m benchmarks.tables"


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.parent.name + "/" + page.name)
def test_no_figure_stands_outside_a_table(page):
    prose = re.sub(
        r"```.*?```|`[^`\n]*`", "", tables.BLOCK.sub("", page.read_text(encoding="utf-8")), flags=re.DOTALL
    )  # no commands
    assert MEASURED.findall(prose) == []


def test_the_search_for_orphans_finds_one():
    for orphan in ("it takes 12 ms", "mIoU 71.2", "a score of 0.83", "in 40 minutes", "30 fps"):
        assert MEASURED.search(orphan)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_results_carry_their_provenance(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    assert all(found.get(key) for key in PROVENANCE)
    assert re.fullmatch(r"[0-9a-f]{40}", found["git"]["commit"])
    assert not re.search(r"/(work|root|tmp|home)\b", path.read_text(encoding="utf-8")), "paths of a machine"


def test_links_lead_somewhere():
    for page in tables.PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
