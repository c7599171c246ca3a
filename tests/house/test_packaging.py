"""The wheel: holds conf/ and tools/ as segzoo.conf and segzoo.tools, and its tools run from any folder."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from toy_training import INFO, Toy, ToyData

from segzoo.export.exporter import export_model
from segzoo.registry import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built with the setuptools at hand: no network, and nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    names = ["segzoo", "conf", "tools", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]
    copy.mkdir()
    for name in names:
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy / name)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "-w", str(folder), str(copy)]
    subprocess.run(command, check=True)
    return next(folder.glob("segzoo-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel that also sees the packages of the running one, but not its segzoo."""
    home = tmp_path_factory.mktemp("env")
    venv.create(home, with_pip=False)
    site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "packages_of_the_tests.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True)
    return home / "bin" / "python"


def test_every_file_is_in_the_wheel(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"segzoo/{path.relative_to(ROOT)}" for folder in ("conf", "tools") for path in (ROOT / folder).rglob("*.[py][ya]*")}
    wanted |= {str(path.relative_to(ROOT)) for pattern in ("*.py", "*.html") for path in (ROOT / "segzoo").rglob(pattern)}
    wanted = {name for name in wanted if "__pycache__" not in name}
    assert wanted <= inside, wanted - inside


def test_every_package_is_declared():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = set(setup["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "segzoo").rglob("__init__.py")}
    assert declared == found | {"segzoo.conf", "segzoo.tools"}


class Lean(Toy):
    def fuse_for_inference_(self):
        return 0


@pytest.mark.parametrize("format, package", [("onnx", "onnx"), ("openvino", "openvino")])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, format, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"format={format} needs {package}: pip install .segzoo\[export,openvino\]"):
        export_model(Lean().eval(), INFO, {}, ToyData(), tmp_path, format=format)
    assert list(tmp_path.iterdir()) == []


def test_tools_run_from_the_wheel_in_another_folder(installed, tmp_path):
    words = ["steps=2", "batch_size=2", "data.train_images=4", "data.val_images=2", "data.height=64", "data.width=64", "workers=0"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def tool(name: str, *arguments: str) -> str:
        command = [str(installed), "-m", f"segzoo.tools.{name}", *arguments]
        answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    assert "icnet_half" in tool("train", "--help")
    tool("train", *words, "out=run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2
    tool("eval", "ckpt=run", "out=scores", "workers=0")
    assert json.loads((tmp_path / "scores" / "summary.json").read_text())["images"] == 2
    where = subprocess.run(
        [str(installed), "-c", "import segzoo; print(segzoo.__file__)"], capture_output=True, text=True, cwd=tmp_path
    )
    assert str(installed.parent.parent) in where.stdout
