"""Invalid command lines are rejected with hints that work.

None is the advice to write ``+key``, which would train with the default.
"""

from __future__ import annotations

import pytest

from segzoo.cli.app import reject_invalid
from segzoo.cli.compose import to_dict
from segzoo.cli.help import help_text
from segzoo.cli.override_errors import unknown_option_error
from segzoo.cli.overrides import parse_overrides
from segzoo.config.validate import validation_errors
from segzoo.registry import ConfigError

# case -> overrides, and what the message must contain
INVALID = {
    "an unknown model": (["model=icnett"], ["icnett", "Did you mean 'icnet'", "pspnet"]),
    "an unknown backbone": (["backbone=resnet5"], ["Did you mean 'resnet50'", "resnet101"]),
    "an unknown data set": (["data=mine"], ["unknown data 'mine'", "needs --config-dir <its folder>/conf."]),
    "the usual name of another device": (["device=gpu"], ["device='gpu'", "Did you mean 'cuda'?"]),
    "a number instead of a size": (
        ["augment.crop=64"],
        ["expected a list of 2 integers, 1 to 16,384, or null. Example, with its quotes: 'augment.crop=[480,640]'"],
    ),
    "a word instead of classes": (
        ["data=folder", "data.root=.", "data.classes=background"],
        ["expected a list of strings. Example, with its quotes: 'data.classes=[background,scratch]'"],
    ),
    "an unknown group": (["modle=icnet"], ["Did you mean 'model'", "backbone"]),
    "a group set to null": (["model=null"], ["model=null", "Omit it", "icnet"]),
    "a misspelled setting": (["model.dropuot=0.2", "model=pspnet"], ["model.dropuot", "Did you mean 'model.dropout'"]),
    "a misspelled top-level setting": (["batchsize=4"], ["Did you mean 'batch_size'", "steps"]),
    "a setting without its group": (["lr=0.1"], ["Did you mean 'optim.lr'"]),
    "a key added by force": (["+model.bin=[1]"], ["Did you mean 'model.bins'"]),
    "a plus before a setting that exists": (["+steps=20"], ["without the '+'"]),
    "text instead of a number": (["steps=abc"], ["steps='abc'", "an integer"]),
    "a number out of range": (["optim.lr=-1"], ["optim.lr=-1", "above 0"]),
    "an unknown number format": (["precision=bf61"], ["Did you mean 'bf16'", "fp32", "fp16"]),
    "a misspelled setting of Hydra": (["hydra.ouput_subdir=null"], ["Did you mean 'hydra.output_subdir'"]),
    "an unknown launcher": (["hydra/launcher=basicc"], ["Did you mean 'basic'"]),
    "several values without -m": (["model=fcn,pspnet"], ["Add -m"]),
    "steps and epochs": (["epochs=5"], ["steps=", "epochs=5", "null"]),
    "a width VGG does not have": (["model=icnet_half", "backbone=vgg16"], ["backbone.width", "vgg16"]),
    "a crop too small to train on": (["augment.crop=[32,32]", "model.align_corners=false"], ["augment.crop", "one pixel"]),
    "class weights of another count": (["loss.class_weights=[1,2,3]"], ["has 3 values", "has 8 classes"]),
    "a missing file": (["init.ckpt=nowhere.safetensors"], ["init.ckpt=nowhere.safetensors", "no such file"]),
    "unpublished weights": (["init.ckpt=FCN_ResNet50_Weights.COCO_V9"], ["publishes no such weights", "COCO_WITH_VOC"]),
    "a _target_": (["+model._target_=os.system"], ["no setting 'model._target_'"]),
    "a value that refers to itself": (["optim.lr=${optim.lr}"], ["Recursive interpolation"]),
    "an unknown way of mixing": (["mix=mixupp"], ["Did you mean 'mixup'", "cutmix"]),
    "no teacher": (["distill=teacher"], ["needs a teacher", "distill.ckpt="]),
    "a missing teacher": (["distill=teacher", "distill.ckpt=runs/none"], ["distill.ckpt=runs/none", "no such file"]),
    "an unknown stage": (["init.freeze=[c9]"], ["init.freeze", "c1, c2, c3, c4, c5"]),
    "many invalid names in one command": (
        ["model=pspnet", "model.dropuot=0.2", "backbone=resnet5", "hydra.ouput_subdir=null", "+speed=9", "epochs=5"],
        ["model.dropout", "resnet50", "hydra.output_subdir", "speed", "epochs=5 are both given"],
    ),
    "many invalid values in one command": (
        ["model=pspnet", "model.dropout=2", "steps=abc", "optim.lr=-1", "data.height=1"],
        ["model.dropout=2", "an integer", "above 0", "data.height=1"],
    ),
}


def error_message(overrides: list[str], **options) -> str:
    with pytest.raises(ConfigError) as error:
        reject_invalid(parse_overrides("train", overrides, **options), "train")
    return str(error.value)


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.replace(" ", "-"))
def test_invalid_command_lines_are_rejected_with_hints(case):
    overrides, expected = INVALID[case]
    message = error_message(overrides)
    missing = [text for text in expected if text not in message]
    assert not missing, f"{missing} not in:\n{message}"
    assert "+" not in message.replace("'+'", "").replace("+model.", "").replace("+steps", "").replace("+speed", "")


NONSENSE = [
    "batch_size=1000000000000",
    "augment.crop=[100000,100000]",
    "steps=1000000000000000000000000000000",
    "seed=99999999999999999999",
    "workers=1000000000",
    "optim.lr=1e26",
    "optim.eps=1e26",
    "optim.head_lr_mult=1e30",
    "clip_grad_norm=1e26",
    "ema_decay=1.0",
    "loss.label_smoothing=1.0",
    "loss.class_weights=[1e30,1,1,1,1,1,1,1]",
    "data.train_images=1000000000000",
    "augment.scale_range=[1e8,1e8]",
    "model.guidance=[1e8,1e8]",
    "model.bins=[100000000]",
]


def test_numbers_that_no_run_could_use_are_rejected():
    """The check of types finds them all, before a model is built."""
    message = error_message(NONSENSE)
    missing = [override for override in NONSENSE if f". {override.partition('=')[0]}=" not in message]
    assert not missing and message.startswith(f"{len(NONSENSE)} errors"), message
    assert "all 0" in error_message(["loss.class_weights=[0,0,0,0,0,0,0,0]"])


@pytest.mark.parametrize(
    ("command", "overrides"),
    [
        ("predict", ["protocol=slide", "protocol.scales=[1e30,1e30]", "protocol.crop=[64,64]", "protocol.stride=[100000000,100000000]", "post=crf", "post.bilateral_weight=1e30"]),
        ("bench", ["model=icnet", "batch=100000000000000000000000000"]),
    ],
)  # fmt: skip
def test_numbers_that_no_tool_could_use_are_rejected(command, overrides):
    config = to_dict(parse_overrides(command, ["ckpt=x", "source=x", *overrides] if command == "predict" else overrides).jobs[0])
    errors = validation_errors(command, {key: value for key, value in config.items() if key != "hydra"})
    for override in overrides:
        key, _, value = override.partition("=")
        if "0000" in value or "1e30" in value:
            assert any(error.startswith(f"{key}=") for error in errors), errors


def test_a_users_yaml_is_checked_too(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [pspnet]\nname: pspnet\nbinz: [1, 2]\ndropout: lots\n")
    message = error_message(["model=mine"], config_dir=str(tmp_path))
    assert "model.binz" in message and "Did you mean 'bins'" in message
    assert "model.dropout='lots'" in message and "number" in message


def test_a_valid_users_yaml_works(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [pspnet]\ndropout: 0.3\n")
    parsed = parse_overrides("train", ["model=mine"], config_dir=str(tmp_path))
    reject_invalid(parsed, "train")
    assert parsed.jobs[0].model.dropout == 0.3


def test_a_users_yaml_runs_nothing_it_names(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name: pspnet\n_target_: os.system\ncommand: echo\n")
    message = error_message(["model=mine"], config_dir=str(tmp_path))
    assert "model._target_: model 'pspnet' has no such setting" in message


def test_a_users_yaml_that_expands_without_end_is_rejected_at_once(tmp_path):
    (tmp_path / "model").mkdir()
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (tmp_path / "model" / "mine.yaml").write_text("\n".join(lines))
    message = error_message(["model=mine"], config_dir=str(tmp_path))
    assert "mine.yaml expands to" in message
    (tmp_path / "model" / "mine.yaml").write_text("a: &a [*a]")
    assert "expands to" in error_message(["model=mine"], config_dir=str(tmp_path))
    (tmp_path / "model" / "mine.yaml").write_text("a: [1")
    assert "is not valid YAML" in error_message(["model=mine"], config_dir=str(tmp_path))
    (tmp_path / "model" / "mine.yaml").write_text("# " + "x" * 1_000_001)
    assert "bytes. A configuration file may have at most" in error_message(["model=mine"], config_dir=str(tmp_path))


def test_a_missing_config_dir(tmp_path):
    assert "nowhere: there is no such directory" in error_message(["model=pspnet"], config_dir=str(tmp_path / "nowhere"))


def test_only_differences_from_the_defaults_are_printed(capsys):
    reject_invalid(parse_overrides("train", ["model=pspnet", "batch_size=8", "seed=3"]), "train")
    printed = capsys.readouterr().out
    assert "model=pspnet" in printed and "seed=3" in printed
    assert "optim" not in printed


def test_a_sweep_is_rejected_only_if_no_job_can_run():
    assert "an integer" in error_message(["model=fcn,pspnet", "steps=abc"], sweep=True)
    parsed = parse_overrides("train", ["model=icnet_half", "backbone=vgg16,resnet50_deep"], sweep=True)
    reject_invalid(parsed, "train")
    assert len(parsed.jobs) == 2


@pytest.mark.integration
def test_settings_that_only_swept_models_have_reach_hydra():
    """Hydra composes a sweep without its swept groups first."""
    words = ["model=icnet_half,fcn", "backbone=resnet50", "backbone.width=0.25", "hw=[96,128]"]
    parsed = parse_overrides("bench", words, sweep=True)
    assert not parsed.errors and [job.backbone.width for job in parsed.jobs] == [0.25, 0.25]
    assert [parsed.for_hydra(word) for word in words] == [
        words[0],
        "backbone=choice(resnet50)",
        "backbone.width=choice(0.25)",
        words[3],
    ]
    words = ["model=pspnet", "backbone=resnet50,resnet101", "model.bins=[1,2]"]
    assert [parse_overrides("train", words, sweep=True).for_hydra(word) for word in words] == words
    words = ["model=parsenet,deeplab_largefov", "model.dilation=6", "steps=3", "hydra/launcher=basic", "hydra.verbose=true"]
    assert [parse_overrides("train", words, sweep=True).for_hydra(word) for word in words] == [
        words[0],
        "model.dilation=choice(6)",
        *words[2:],  # a sweep may not list Hydra's own settings
    ]


def test_a_plugin_that_is_not_installed_names_its_extra():
    assert unknown_option_error("hydra/launcher", "joblib", ["basic"]).endswith('pip install "segzoo[joblib]".')
    assert unknown_option_error("hydra/sweeper", "optuna", ["basic"]).endswith('pip install "segzoo[optuna]".')


def test_a_part_without_its_yaml_is_told_which_file_is_missing():
    assert unknown_option_error("model", "fcn", ["icnet"]) == (
        "model=fcn: segzoo/models/fcn.py has no YAML. Write conf/model/fcn.yaml with every keyword-only parameter of fcn."
    )
    for name in ("_base", "../data", "no such"):  # a helper module, and names of no module
        assert "unknown model" in unknown_option_error("model", name, ["icnet"])
    assert "unknown augment" in unknown_option_error("augment", "fcn", ["standard"])  # registered by a module, not a package


def test_help_applies_the_overrides():
    text = help_text("train", "Trains.", ["model=pspnet", "steps=7"])
    assert text.startswith("Trains.") and "model: deeplab_largefov, " in text
    assert "steps: 7" in text and "concat: descending" in text
    assert "train.yaml explains each setting; " in text and "conf/<group>/<option>.yaml those of a group." in text
    with pytest.raises(ConfigError, match="Could not override 'modell'"):
        help_text("train", "", ["modell=x"])


def test_help_names_what_a_tool_has():
    text = help_text("leaderboard", "Ranks.", [])
    assert "Groups" not in text and "leaderboard.yaml explains each setting.\n" in text and "<group>" not in text
    assert "action=convert --help lists the settings of that action" in help_text("dataset", "Checks.", [])


@pytest.mark.parametrize(("data", "recipes"), [("camvid", ["recipe=camvid"]), ("cityscapes", [])])
def test_a_recipe_is_listed_only_if_there_is_one(data, recipes):
    changed = parse_overrides("train", [f"data={data}"]).changed
    assert f"data={data}" in changed and [word for word in changed if word.startswith("recipe")] == recipes
