"""The language that people read: standard terms and short summary lines.

Run as a script on files or folders to list what a change still has to reword: ``python tests/house/test_language.py segzoo/layers``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("segzoo", "tools", "conf", "benchmarks")
PAGES = ("README.md", ".github/CONTRIBUTING.md")
FROZEN = ("benchmarks/results",)  # records keep the words of their commit
# pattern -> what the field says
WORDS = {
    r"pictures?": "image",
    r"trunks?": "backbone",
    r"grow|grows|grown|growing": "upsample, increase",
    r"shrink|shrinks|shrunk|shrinking": "downsample, reduce",
    r"taught|teaches|teach": "distilled, teacher",
    r"goes? on( with)?|gone on|going on": "resume, continue",
    r"by lot": "at random",
    r"in turns|takes? turns": "interleaved",
    r"worth|worths": "importance",
    r"lean": "fused for inference",
    r"press|presses|pressed|pressing": "penalize, sparsity",
    r"told": "specified, set, reported",
    r"beside": "compared with, next to",
    r"rooms?|houses?|nouns?": "package, module, data types",
    r"heeds?|heeded": "handled",
    r"refuse|refuses|refused|refusing|refusal": "reject",
    r"legal": "valid",
    r"faults?|faulty": "error, invalid",
    r"remedy|remedies": "hint",
    r"doubts?": "warning",
    r"rehearse|rehearsed|rehearsal": "dry run",
    r"learnt|spelt|misspelt": "learned, spelled",
    r"norms": "batch norm layers",
    r"(run|step) folders?": "run directory, checkpoint directory",
    r"(?<!ground )(?<!ground-)truths?": "ground truth",
    r"(taps|bins|pixels) a side": "kernel size, grid size",
    r"ours|theirs": "local, external; actual, expected",
    r"came of|came to": "result",
    r"whence|thereof|therein|thereby|wherein": "plain words",
    r"colour\w*|grey\w*|normalis\w*|optimis\w*|initialis\w*|behaviour\w*|neighbour\w*|labell\w*|quantis\w*|centre\w*|recognis\w*": "American spelling",
}
CLASS_NAMES = re.compile(r"^classes:\n(?: .*\n)+", re.MULTILINE)  # in YAML files of public data sets, which chose them
BANNED = re.compile(rf"(?<![\w-])({'|'.join(f'(?:{word})' for word in WORDS)})(?![\w-])", re.IGNORECASE)
OPENERS = re.compile(r"(What|Which|How|Where|Whether|Who|When) ")
MAX_WORDS = 12


def sources(*roots: str) -> Iterator[Path]:
    """Every Python, YAML and Markdown file below ``roots``, relative to the checkout."""
    for root in roots:
        path = ROOT / root
        found = [path] if path.is_file() else sorted(path.rglob("*"))
        yield from (
            p.relative_to(ROOT)
            for p in found
            if p.suffix in (".py", ".yaml", ".md")
            and "__pycache__" not in p.parts
            and not str(p.relative_to(ROOT)).startswith(FROZEN)
        )


def banned_words(path: Path) -> list[str]:
    """``line: word in its context`` for each word that has a standard term."""
    lines = CLASS_NAMES.sub(lambda names: "\n" * names[0].count("\n"), (ROOT / path).read_text(encoding="utf-8")).splitlines()
    return [
        f"{path}:{n}: {match[0]!r} in {line.strip()[:110]}" for n, line in enumerate(lines, 1) for match in BANNED.finditer(line)
    ]


def summary_faults(path: Path) -> list[str]:
    """Docstrings whose first line is long, has several clauses, opens with a noun clause or does not end with a period."""
    if path.suffix != ".py":
        return []
    found = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node)
        if text is None:
            continue
        first, _, rest = text.partition("\n")
        reasons = []
        if len(re.sub(r"``[^`]*``", "x", first).split()) > MAX_WORDS:
            reasons.append(f"more than {MAX_WORDS} words")
        if ";" in first:
            reasons.append("a semicolon")
        if OPENERS.match(first):
            reasons.append("opens with a noun clause")
        if not first.endswith((".", ":")):
            reasons.append("no period")
        if rest and not rest.startswith("\n"):
            reasons.append("no empty line after the summary")
        if reasons:
            found.append(f"{path}:{getattr(node, 'lineno', 1)}: {', '.join(reasons)}: {first[:100]}")
    return found


def test_words_are_the_fields_own():
    assert [fault for path in sources(*CODE, *PAGES) for fault in banned_words(path)] == []


def test_summaries_are_one_short_clause():
    paths = [path for path in sources("segzoo", "tools", "benchmarks") if path.suffix == ".py"]
    assert [fault for path in paths for fault in summary_faults(path)] == []


@pytest.mark.parametrize(
    ("line", "word"),
    [("a picture of it", "picture"), ("the pruner presses scales", "presses"), ("the truth", "truth"), ("Grey values", "Grey")],
)
def test_a_banned_word_is_seen(line, word):
    match = BANNED.search(line)
    assert match is not None and match[0] == word


@pytest.mark.parametrize("line", ["the ground truth", "compressed", "grown_up", "backbone", "besides", "gray"])
def test_a_standard_word_passes(line):
    assert BANNED.search(line) is None


if __name__ == "__main__":
    listed = [fault for path in sources(*(sys.argv[1:] or CODE)) for fault in banned_words(path) + summary_faults(path)]
    print("\n".join(listed))
    sys.exit(bool(listed))
