"""What a run records of the code that it runs from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from segzoo.runs import environment


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """Checkout with one commit, which the module seems to lie in."""
    code = tmp_path / "segzoo/runs/environment.py"
    code.parent.mkdir(parents=True)
    code.write_text("")
    (tmp_path / ".gitignore").write_text("__pycache__\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "First"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(environment, "__file__", str(code))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("my_data/conf/data/my.yaml", False),
        ("labels.zip", False),
        ("benchmarks/results/speed.json", False),
        ("segzoo/__pycache__/a.pyc", False),
        ("segzoo/models/mine.py", True),
        ("conf/model/mine.yaml", True),
        ("tools/mine.py", True),
        ("benchmarks/mine.py", True),
        (".gitignore", True),
    ],
)
def test_outputs_in_the_checkout_are_no_changes(checkout, file, changed):
    (checkout / file).parent.mkdir(parents=True, exist_ok=True)
    (checkout / file).write_text("x")
    git = environment.git_commit()
    assert git is not None and git["changed"] == changed
