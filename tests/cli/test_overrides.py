"""Command lines that cannot work: each is rejected with every hint, and never with the advice to write ``+word``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segzoo.cli.app import _reject_invalid
from segzoo.cli.help import help_text
from segzoo.cli.overrides import _unknown_option, parse_overrides
from segzoo.registry import ConfigError

ROOT = Path(__file__).parents[2]

# words on the command line -> what the message must contain
REFUSED = {
    "a model that is not there": (["model=icnett"], ["icnett", "Did you mean 'icnet'", "pspnet"]),
    "a backbone that is not there": (["backbone=resnet5"], ["Did you mean 'resnet50'", "resnet101"]),
    "a group that is not there": (["modle=icnet"], ["Did you mean 'model'", "backbone"]),
    "a group set to nothing": (["model=null"], ["model=null", "Leave the word away", "icnet"]),
    "a misspelled setting": (["model.dropuot=0.2", "model=pspnet"], ["model.dropuot", "Did you mean 'model.dropout'"]),
    "a misspelled frame word": (["batchsize=4"], ["Did you mean 'batch_size'", "steps"]),
    "a setting in the wrong place": (["lr=0.1"], ["Did you mean 'optim.lr'"]),
    "a key added by force": (["+model.bin=[1]"], ["Did you mean 'model.bins'"]),
    "a plus before a setting that exists": (["+steps=20"], ["without the '+'"]),
    "a word where a number is wanted": (["steps=abc"], ["steps='abc'", "an integer"]),
    "a number out of range": (["optim.lr=-1"], ["optim.lr=-1", "above 0"]),
    "an option that is not valid": (["precision=bf61"], ["Did you mean 'bf16'", "fp32", "fp16"]),
    "a word of Hydra's, misspelled": (["hydra.ouput_subdir=null"], ["Did you mean 'hydra.output_subdir'"]),
    "a launcher that is not there": (["hydra/launcher=basicc"], ["Did you mean 'basic'"]),
    "several values without -m": (["model=fcn,pspnet"], ["Add -m"]),
    "two lengths at once": (["epochs=5"], ["steps=", "epochs=5", "null"]),
    "a width VGG does not have": (["model=icnet_half", "backbone=vgg16"], ["backbone.width", "vgg16"]),
    "a crop too small to train on": (["augment.crop=[32,32]"], ["augment.crop", "one pixel"]),
    "weights for other classes": (["loss.class_weights=[1,2,3]"], ["3 numbers", "8 classes"]),
    "a file that is not there": (["init.ckpt=nowhere.safetensors"], ["init.ckpt=nowhere.safetensors", "no such file"]),
    "weights that nobody publishes": (["init.ckpt=FCN_ResNet50_Weights.COCO_V9"], ["publishes no such weights", "COCO_WITH_VOC"]),
    "a target to run": (["+model._target_=os.system"], ["no setting 'model._target_'"]),
    "a value that names itself": (["optim.lr=${optim.lr}"], ["Recursive interpolation"]),
    "a way of mixing that is not there": (["mix=mixupp"], ["Did you mean 'mixup'", "cutmix"]),
    "a teacher that is not named": (["distill=teacher"], ["whose network teaches", "distill.ckpt="]),
    "a teacher that is not there": (["distill=teacher", "distill.ckpt=runs/none"], ["distill.ckpt=runs/none", "no such file"]),
    "a stage that is not there": (["init.freeze=[c9]"], ["init.freeze", "c1, c2, c3, c4, c5"]),
    "many errors in one command": (
        [
            "model=pspnet",
            "model.dropuot=0.2",
            "backbone=resnet5",
            "steps=abc",
            "optim.lr=-1",
            "hydra.ouput_subdir=null",
            "+speed=9",
        ],
        ["model.dropout", "resnet50", "an integer", "above 0", "hydra.output_subdir", "speed"],
    ),
}


def refusal(words: list[str], **more) -> str:
    with pytest.raises(ConfigError) as error:
        _reject_invalid(parse_overrides("train", words, **more), "train")
    return str(error.value)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.replace(" ", "-"))
def test_refused_with_every_remedy(case):
    words, remedies = REFUSED[case]
    message = refusal(words)
    missing = [remedy for remedy in remedies if remedy not in message]
    assert not missing, f"{missing} not in:\n{message}"
    assert "+" not in message.replace("'+'", "").replace("+model.", "").replace("+steps", "").replace("+speed", "")


def test_a_users_yaml_is_checked_too(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [pspnet]\nname: pspnet\nbinz: [1, 2]\ndropout: lots\n")
    message = refusal(["model=mine"], config_dir=str(tmp_path))
    assert "model.binz" in message and "Did you mean 'bins'" in message
    assert "model.dropout='lots'" in message and "number" in message


def test_a_users_yaml_that_is_right_works(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [pspnet]\ndropout: 0.3\n")
    reading = parse_overrides("train", ["model=mine"], config_dir=str(tmp_path))
    _reject_invalid(reading, "train")
    assert reading.jobs[0].model.dropout == 0.3


def test_a_users_yaml_runs_nothing_it_names(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name: pspnet\n_target_: os.system\ncommand: echo\n")
    message = refusal(["model=mine"], config_dir=str(tmp_path))
    assert "model._target_: model 'pspnet' has no such setting" in message


def test_a_users_yaml_that_unfolds_without_end_is_refused_at_once(tmp_path):
    (tmp_path / "model").mkdir()
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (tmp_path / "model" / "mine.yaml").write_text("\n".join(lines))
    message = refusal(["model=mine"], config_dir=str(tmp_path))
    assert "mine.yaml unfolds to" in message
    (tmp_path / "model" / "mine.yaml").write_text("a: &a [*a]")
    assert "unfolds to" in refusal(["model=mine"], config_dir=str(tmp_path))
    (tmp_path / "model" / "mine.yaml").write_text("a: [1")
    assert "is no YAML" in refusal(["model=mine"], config_dir=str(tmp_path))
    (tmp_path / "model" / "mine.yaml").write_text("# " + "x" * 1_000_001)
    assert "bytes, which is no configuration" in refusal(["model=mine"], config_dir=str(tmp_path))


def test_a_folder_of_configs_that_is_not_there(tmp_path):
    assert "nowhere" in refusal(["model=pspnet"], config_dir=str(tmp_path / "nowhere"))


def test_names_alone_are_refused_without_torch():
    code = "import sys; sys.argv = ['train.py', 'modle=icnet', 'batchsize=4']; import segzoo.tools.train as t\ntry:\n    t.main()\nexcept SystemExit as e:\n    print(e)\nassert 'torch' not in sys.modules"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={**os.environ})
    assert answer.returncode == 0 and "'model'" in answer.stdout and "'batch_size'" in answer.stdout, answer.stderr


def test_start_prints_only_what_differs(capsys):
    _reject_invalid(parse_overrides("train", ["model=pspnet", "batch_size=8", "seed=3"]), "train")
    printed = capsys.readouterr().out
    assert "model=pspnet" in printed and "seed=3" in printed
    assert "optim" not in printed


def test_a_sweep_is_refused_when_no_job_can_run_and_runs_when_one_can():
    assert "an integer" in refusal(["model=fcn,pspnet", "steps=abc"], sweep=True)
    reading = parse_overrides("train", ["model=icnet_half", "backbone=vgg16,resnet50_deep"], sweep=True)
    _reject_invalid(reading, "train")
    assert len(reading.jobs) == 2


def test_a_plugin_that_is_not_installed_names_its_extra():
    assert _unknown_option("hydra/launcher", "joblib", ["basic"]).endswith('pip install "segzoo[joblib]".')
    assert _unknown_option("hydra/sweeper", "optuna", ["basic"]).endswith('pip install "segzoo[optuna]".')


def test_help_shows_the_groups_and_settings_as_the_words_leave_them():
    found = help_text("train", "Trains.", ["model=pspnet", "steps=7"])
    assert found.startswith("Trains.") and "model: deeplab_largefov, " in found
    assert "steps: 7" in found and "concat: descending" in found
    with pytest.raises(ConfigError, match="Could not override 'modell'"):
        help_text("train", "", ["modell=x"])
