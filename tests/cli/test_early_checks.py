"""Commands that need no torch to be rejected do not import it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy_training import INFO, Toy

from segzoo.checkpoints.writing import save_checkpoint
from segzoo.cli.app import reject_invalid
from segzoo.cli.overrides import parse_overrides
from segzoo.registry import ConfigError

ROOT = Path(__file__).parents[2]
RUN = """
import hydra, importlib, json, sys
hydra.main = lambda **_: lambda job: lambda: sys.exit("not rejected")
for tool, overrides, expected in json.loads(sys.stdin.read()):
    module = importlib.import_module(f"segzoo.tools.{tool}")
    sys.argv = [f"{tool}.py", *overrides]
    try:
        module.main()
    except SystemExit as error:
        message = str(error)
    assert expected in message, (tool, overrides, message)
    assert "torch" not in sys.modules, (tool, overrides)
"""
FOLDER = ["data=folder", "data.classes=[a,b]"]


@pytest.mark.integration
def test_errors_that_need_no_torch_come_before_it(tmp_path):
    taken, listed, other = tmp_path / "taken", tmp_path / "listed", tmp_path / "other"
    for path in (taken, listed, other):
        path.mkdir()
    (other / "config.yaml").write_text("seed: 1\noptim: {name: sgd}\n")
    save_checkpoint(other, 1, Toy(), {"step": 1}, {}, INFO, {})
    (taken / "result.json").write_text('{"finished": true}')
    (tmp_path / "a.safetensors").write_bytes(b"")
    ckpt, root = f"ckpt={tmp_path / 'a.safetensors'}", f"data.root={tmp_path / 'nowhere'}"
    cases = [
        ["train", ["modle=icnet", "batchsize=4", "steps=5"], "2. batchsize=4"],
        ["train", ["epochs=3"], "steps=2000 and epochs=3 are both given"],
        ["train", [f"out={taken}"], "already holds a run"],
        ["train", [f"out={tmp_path / 'a.safetensors'}"], "is not a directory"],
        ["train", ["resume=nowhere"], "there is no such run"],
        ["train", [f"out={other}", "resume=auto"], "holds a run of another configuration"],
        ["train", [f"resume={other}"], "an optimizer cannot continue with the state of another one"],
        ["train", [*FOLDER, root], "is not a folder"],
        ["train", [*FOLDER, f"data.root={listed}", 'data.lists="{split}.txt"'], "data.lists="],
        ["train", ["device=cuda:1"], "CUDA_VISIBLE_DEVICES=1"],
        ["train", ["init.ckpt=nowhere"], "no such file"],
        ["train", ["out="], "out is empty. Set it to a path, or to null for none."],
        ["train", [*FOLDER, root, "data.lists="], "data.lists is empty"],
        ["train", ["distill=teacher"], "needs a teacher"],
        ["train", ["init.ckpt=" + "x" * 5000], "a path has at most"],
        ["prune", [], "nothing to prune"],
        ["prune", ["ckpt=nowhere"], "does not exist"],
        ["prune", [ckpt, "pruner=none"], "pruner=none removes no channel. Set a pruner, such as pruner=l1"],
        ["prune", [ckpt, "init.ckpt=x"], "Omit init.ckpt"],
        ["prune", [ckpt, f"out={taken}"], "already holds a run"],
        ["eval", [ckpt, *FOLDER, root], "is not a folder"],
        ["eval", [ckpt, root], "there is no such directory"],
        ["eval", [ckpt, f"out={taken}"], "already holds a run"],
        ["eval", [ckpt, "protocol=slide", "protocol.crop=[8,8]", "protocol.stride=[9,9]"], "would stay unlabeled"],
        ["compare", ["model.onnx", "data=parts", "protocol=slide"], "protocol.crop=null: no crop of the training is known"],
        ["eval", ["ckpt=nowhere"], "does not exist"],
        ["predict", [ckpt, "source=nowhere"], "matches no image"],
        ["predict", [ckpt, f"source={listed}", f"out={taken}"], "already holds a run"],
        ["predict", [ckpt, f"source={listed}", "protocol.pad_multiple=8", "protocol.resize_multiple=32"], "both given"],
        ["predict", [f"ckpt={other / 'checkpoints' / '1'}", f"source={listed}", "fail_if={raod: 50px}"], "Did you mean 'road'"],
        ["predict", [ckpt, f"source={listed}", "fail_if={road: 50}"], "'fail_if={road: 50px}'"],
        ["predict", [ckpt, f"source={listed}", "overlays=video"], "is for a video, a camera or a stream"],
        ["predict", [ckpt, "source=rtsp://x/y", "format=voc"], "packs images for a test server"],
        ["predict", [ckpt, "source=0", "polygons=coco"], "Set polygons=labelme"],
        ["predict", [ckpt, "source=0", "only=new"], "only=new: set out"],
        ["predict", [ckpt, "source=-", "runtime=openvino", "device=cuda"], "runtime=openvino predicts on the CPU"],
        ["export", [ckpt, root], "there is no such directory"],
        ["export", [ckpt, f"out={taken}"], "already holds a run"],
        ["bench", [], "nothing to benchmark"],
        ["bench", ["model=icnet", "data.root=x"], "Set data=<name>"],
        ["bench", ["model=icnet", f"out={taken}"], "already holds a run"],
        ["describe", [], "nothing to describe"],
        ["serve", [], "there is no model to serve"],
        ["serve", ["ckpt=nowhere"], "does not exist"],
        ["serve", ["bundle=nowhere.zip"], "there is no such bundle"],
        ["serve", ["models={a: nowhere}"], "models.a=nowhere"],
        ["serve", [ckpt, "token_file=nowhere"], "token_file=nowhere cannot be read"],
        ["serve", [ckpt, "protocol=slide", "protocol.crop=[8,8]", "protocol.stride=[9,9]"], "would stay unlabeled"],
    ]  # fmt: skip
    process = subprocess.run([sys.executable, "-c", RUN], input=json.dumps(cases), capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr


def errors_of(command: str, *overrides: str, **options) -> list[str]:
    with pytest.raises(ConfigError) as error:
        reject_invalid(parse_overrides(command, overrides, **options), command)
    return error.value.errors


@pytest.mark.parametrize(
    ("command", "overrides"),
    [
        ("train", ["data=fodler", "data.root=x", "data.classes=[a]"]),
        ("train", ["model=icnett", "model.branches=4"]),
        ("train", ["hydra/launcher=basicc", "hydra.launcher.n_jobs=4"]),
        ("eval", ["ckpt=r/lr=0.01"]),
    ],
)
def test_an_error_that_follows_from_another_is_not_reported(command, overrides):
    assert len(errors_of(command, *overrides)) == 1


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("ckpt=r/lr=0.01", "'ckpt=\"r/lr=0.01\"'"),
        ("ckpt=my runs (1)", "'ckpt=\"my runs (1)\"'"),
        ("ckpt=a&b", "'ckpt=\"a&b\"'"),
        ("ckpt=café #1", "'ckpt=\"café #1\"'"),
        ("ckpt=~/x", "'ckpt=\"~/x\"'"),
        ("data.classes=[背景,crack]", "'data.classes=[\"背景\",crack]'"),
    ],
)
def test_a_value_outside_the_grammar_is_shown_quoted(override, hint):
    error = errors_of("eval", override)[0]
    assert error.endswith(f"Quote the value: {hint}")


def test_a_word_without_a_key_is_recognized(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/a/checkpoints").mkdir(parents=True)
    Path("images").mkdir()
    assert errors_of("train", "icnet") == ["icnet cannot be parsed as an override. Did you mean model=icnet?"]
    assert errors_of("predict", "runs/a", "images/")[:2] == [
        "runs/a cannot be parsed as an override. Did you mean ckpt=runs/a?",
        "images/ cannot be parsed as an override. Did you mean source=images/?",
    ]
    assert errors_of("train", "images/")[0].endswith("override. Write it as key=value.")  # has no source


def test_braces_that_the_shell_took_are_recognized():
    error = errors_of("train", "data=camvid", "data.label_map=0:0", "data.label_map=255:1")[0]
    assert "Did the shell take the braces?" in error and error.endswith("'data.label_map={0:0,255:1}'")

    (error,) = [line for line in errors_of("train", "data=camvid", "data.label_map=255:1") if "label_map" in line]
    assert "expected a mapping" in error and "Did the shell take the braces?" in error


def test_an_integer_key_cannot_be_set_alone():
    error = errors_of("train", "data=camvid", "data.label_map.2=255")[0]
    assert "Set all of them: 'data.label_map={0:0,1:1,2:255,3:3," in error
