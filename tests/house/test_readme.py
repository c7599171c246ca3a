"""The examples of the README run as they stand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from small_exports import CONFIG, INFO, NoiseData, export_wrapper
from tiny_run import TINY_RUN

from segzoo.checkpoints.store import set_pointer
from segzoo.checkpoints.writing import save_checkpoint

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_commands_quote_brackets_and_braces():
    """zsh expands an unquoted [ and bash an unquoted {."""
    commands = "\n".join(blocks("bash")).replace("\\\n", " ")
    words = re.findall(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""", re.sub(r"(^|\s)#.*", "", commands, flags=re.MULTILINE))
    assert [word for word in words if re.search(r"[\[{]", re.sub(r"""'[^']*'|"[^"]*\"""", "", word))] == []
    assert len(words) > 100


def test_the_quickstart_runs(tmp_path):
    script, run = blocks("python")[0], tmp_path / "runs" / "first"
    assert len(script.strip().splitlines()) <= 15
    save_checkpoint(run, 1, export_wrapper(num_classes=len(INFO.classes)).model, {}, CONFIG, INFO, {})
    set_pointer(run, "best", 1)
    for number, name in enumerate(("part.jpg", "other.png")):
        Image.fromarray(NoiseData().image(number)).save(tmp_path / name)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("<Prediction of part.jpg, 160 x 240 pixels: ") and lines[1].startswith("(160, 240) ")
    assert [line.split()[0] for line in lines[2:4]] == ["part.jpg", "other.png"] and int(lines[4]) >= 0
    record = json.loads((tmp_path / "part.json").read_text())
    assert record["imagePath"] == "part.jpg" and record["shapes"], "the network predicts several classes"
    assert Image.open(tmp_path / "overlay.png").width == 240 and (tmp_path / "shared" / "README.md").is_file()


def test_a_model_is_one_file_and_one_yaml(tmp_path):
    """The README's own model, added to a copy of the package, trains without another edit."""
    code = next(block for block in blocks("python") if "@MODELS.register" in block)
    config = next(block for block in blocks("yaml") if "name: mynet" in block)
    for folder in ("segzoo", "conf", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("conf", "tools"):  # as the wheel has them
        (tmp_path / "segzoo" / folder).symlink_to(tmp_path / folder)
    (tmp_path / "segzoo" / "models" / "mynet.py").write_text(code)
    (tmp_path / "conf" / "model" / "mynet.yaml").write_text(config)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "tools/train.py", "model=mynet", "backbone.width=0.125", *TINY_RUN, "out=run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").is_file()
