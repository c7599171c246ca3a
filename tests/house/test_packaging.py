"""The wheel is complete and its tools run in any directory."""

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

from segzoo.checkpoints.paths import PRETRAINED
from segzoo.cli.override_errors import EXTRAS
from segzoo.export.exporter import export_model
from segzoo.registry import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy of the checkout, without network access."""
    directory = tmp_path_factory.mktemp("wheel")
    copy = directory / "checkout"
    names = ["segzoo", "conf", "tools", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]
    copy.mkdir()
    for name in names:
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy / name)], check=True)
    options = ["--quiet", "--no-build-isolation", "--no-deps", "-w", str(directory)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(copy)], check=True)
    return next(directory.glob("segzoo-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Install the wheel into an environment of its own.

    It shares the packages of the running environment, but not its segzoo.
    """
    env = tmp_path_factory.mktemp("env")
    venv.create(env, with_pip=False)
    site = env / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "packages_of_the_tests.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True)
    return env / "bin" / "python"


@pytest.mark.integration
def test_every_file_is_in_the_wheel(wheel):
    packaged = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"segzoo/{path.relative_to(ROOT)}" for folder in ("conf", "tools") for path in (ROOT / folder).rglob("*.[py][ya]*")}
    expected |= {
        str(path.relative_to(ROOT)) for pattern in ("*.py", "*.html", "*.js", "*.css") for path in (ROOT / "segzoo").rglob(pattern)
    }
    expected |= {str(path.relative_to(ROOT)) for path in PRETRAINED.rglob("*") if path.is_file()}
    expected = {name for name in expected if "__pycache__" not in name}
    assert expected <= packaged, expected - packaged


def test_every_package_is_declared():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = set(setup["options"]["packages"].split())
    existing = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "segzoo").rglob("__init__.py")}
    assert declared == existing | {"segzoo.conf", "segzoo.tools"}


def test_extras_are_those_that_something_uses():
    """An extra that nothing uses only adds packages."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    own = {"export", "openvino", "dev", "peers", "annotations", "plot", "hub", "large", "mlflow", "ray", "serve", "timm", "wandb"}
    assert extras == own | set(EXTRAS.values())
    assert "pyyaml" in setup["options"]["install_requires"] and "nncf" in setup["options.extras_require"]["dev"]


class ExportableToy(Toy):
    def fuse_for_inference_(self):
        return 0


@pytest.mark.parametrize("format, package", [("onnx", "onnx"), ("openvino", "openvino")])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, format, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError,
        match=rf"format={format} needs {package}: pip install .segzoo\[{'export' if format == 'onnx' else 'export,openvino'}\]",
    ):
        export_model(ExportableToy().eval(), INFO, {}, ToyData(), tmp_path, format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # .ci/run does the same with the wheel it builds
def test_tools_of_the_wheel_run_in_another_directory(installed, tmp_path):
    overrides = [
        "steps=2",
        "batch_size=2",
        "data.train_images=4",
        "data.val_images=2",
        "data.height=64",
        "data.width=64",
        "workers=0",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run_tool(name: str, *arguments: str) -> str:
        command = [str(installed), "-m", f"segzoo.tools.{name}", *arguments]
        process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    assert "icnet_half" in run_tool("train", "--help")
    run_tool("train", *overrides, "out=run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2
    run_tool("eval", "ckpt=run", "out=scores", "workers=0")
    assert json.loads((tmp_path / "scores" / "summary.json").read_text())["images"] == 2
    process = subprocess.run(
        [str(installed), "-c", "import segzoo; print(segzoo.__file__)"], capture_output=True, text=True, cwd=tmp_path
    )
    assert str(installed.parent.parent) in process.stdout
