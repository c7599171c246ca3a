"""Settings without effect are named before step 1, and no others."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from segzoo.cli.compose import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.checks.idle import RULES, idle_settings
from segzoo.config.sections import SECTIONS

CONF = Path(__file__).parents[2] / "conf"

# settings without effect, and what gives them one
IDLE = [
    ("train", ["model=fcn", "backbone=resnet50", "model.dropout=0.2"], "model.dropout", ["model.fc_channels=64"]),
    ("train", ["model=fcn32s", "model.at_once=true"], "model.at_once", ["model.stride=16"]),
    ("train", ["model=parsenet", "model.fc_channels=0", "model.kernel=5"], "model.kernel", ["model.fc_channels=64"]),
    ("train", ["model=parsenet", "model.fc_channels=0", "model.dilation=2"], "model.dilation", ["model.fc_channels=64"]),
    ("train", ["model=parsenet", "model.fc_channels=0", "model.dropout=0.2"], "model.dropout", ["model.fc_channels=64"]),
    ("train", ["model=pspnet", "model.bins=[]", "model.pool=max"], "model.pool", ["model.bins=[2]"]),
    ("train", ["model=pspnet", "model.bins=[]", "model.reduce=false"], "model.reduce", ["model.bins=[2]"]),
    ("train", ["model=pspnet", "model.bins=[]", "model.concat=ascending"], "model.concat", ["model.bins=[2]"]),
    ("train", ["model=pspnet", "model.output_stride=32", "model.first_block_dilation=half"], "model.first_block_dilation", ["model.output_stride=16"]),
    ("train", ["model=icnet", "backbone=vgg16", "model.first_block_dilation=half"], "model.first_block_dilation", ["backbone=resnet50"]),
    ("train", ["model=icnet", "model.branches=4", "model.guidance=[1,1]"], "model.guidance", ["model.branches=24"]),
    ("train", ["schedule.warmup_factor=0.1"], "schedule.warmup_factor", ["schedule.warmup=5"]),
    ("train", ["augment.scale=false", "augment.scale_range=[1,2]"], "augment.scale_range", ["augment.scale=true"]),
    ("train", ["augment.reduced_jpeg=true"], "augment.reduced_jpeg", ["augment.scale_range=[0.25,1]"]),
    ("train", ["augment.reduced_jpeg=true", "augment.scale_range=[0.5,1]"], "augment.reduced_jpeg", ["augment.scale_range=[0.5,0.5]"]),
    (
        "train",
        ["data=camvid", "data.cache=ram", "augment.scale_range=[0.25,1]", "augment.reduced_jpeg=true"],
        "augment.reduced_jpeg",
        ["data.cache=none"],
    ),
    ("train", ["pruner=l1", "pruner.hw=[64,64]"], "pruner.hw", ["pruner.target_gmacs=5"]),
    ("train", ["pruner=l1", "pruner.runtime=openvino"], "pruner.runtime", ["pruner.target_ms=5"]),
    ("train", ["init.match=index"], "init.match", ["init.ckpt=x"]),
    ("train", ["mix=cutmix", "batch_size=1"], "mix=cutmix", ["batch_size=2"]),
    ("train", ["mix=cutmix", "mix.prob=0"], "mix=cutmix", ["mix.prob=0.5"]),
    ("train", ["distill=teacher", "distill.ckpt=x", "distill.weight=0"], "distill=teacher", ["distill.weight=0.5"]),
    ("train", ["distill=teacher", "distill.ckpt=x", "distill.layers=[a]", "distill.layer_weight=0"], "distill.layers", ["distill.layer_weight=1"]),
    ("train", ["distill=teacher", "distill.ckpt=x", "distill.layers=[a]", "distill.weight=0", "distill.layer_weight=0"], "distill=teacher", ["distill.layer_weight=1"]),
    ("train", ["distill=teacher", "distill.ckpt=x", "distill.layer_weight=2"], "distill.layer_weight", ["distill.layers=[a]"]),
    ("train", ["normalization=data"], "normalization", ["init.ckpt=x"]),
    ("eval", ["ckpt=x", "boundary_ratio=0.01"], "boundary_ratio", ["scores=[boundary_iou]"]),
    ("eval", ["ckpt=x", "trimap_widths=[7]"], "trimap_widths", ["scores=[trimap]"]),
    ("eval", ["ckpt=x", "boundary_tolerance=0.02"], "boundary_tolerance", ["scores=[boundary_f]"]),
    ("eval", ["ckpt=x", "calibration_bins=7"], "calibration_bins", ["scores=[calibration]"]),
    ("eval", ["ckpt=x", "blob_pixels=7"], "blob_pixels", ["scores=[blobs]"]),
    ("leaderboard", ["runs=[a]", "max_compared=0", "group_by=x"], "group_by", ["max_compared=3"]),
    ("eval", ["ckpt=x", "scores=[blobs]", "blob_curve=false", "blob_recall=0.9"], "blob_recall", ["blob_curve=true"]),
    ("eval", ["ckpt=x", "post=crf", "post.iterations=0"], "post=crf", ["post.iterations=5"]),
    ("eval", ["ckpt=x", "post=crf", "post.bilateral_weight=0", "post.bilateral_xy=30"], "post.bilateral_xy", ["post.bilateral_weight=4"]),
    ("predict", ["ckpt=x", "source=x", "post=crf", "post.bilateral_weight=0", "post.bilateral_rgb=9"], "post.bilateral_rgb", ["post.bilateral_weight=4"]),
    ("eval", ["ckpt=x", "post=crf", "post.gaussian_weight=0", "post.gaussian_xy=2"], "post.gaussian_xy", ["post.gaussian_weight=3"]),
    ("bench", ["ckpt=x", "seed=3"], "seed", ["ckpt=null"]),
    ("predict", ["ckpt=x", "source=x", "protocol=slide", "tile=512"], "tile", ["protocol=whole"]),
    ("dataset", ["action=split", "action.folds=5", "action.val_ratio=0.3"], "action.val_ratio", ["action.folds=null"]),
    ("dataset", ["action=convert", "action.source=x", "action.format=yolo", "action.image_root=x"], "action.image_root", ["action.format=coco"]),
    ("dataset", ["action=convert", "action.source=x", "action.format=coco", "action.unlabeled=background"], "action.unlabeled", ["action.format=labelme"]),
    ("dataset", ["action=convert", "action.source=x", "action.format=voc", "action.ignore_flags=[a]"], "action.ignore_flags", ["action.format=labelme"]),
    ("dataset", ["action=convert", "action.source=x", "action.format=labelme", "action.crowd=ignore"], "action.crowd", ["action.format=coco"]),
    ("dataset", ["action=convert", "action.source=x", "action.format=coco", "action.datumaro_format=kitti"], "action.datumaro_format", ["action.format=datumaro"]),
    ("prune", ["ckpt=x", "bench_runtimes=[]", "bench_precision=fp32"], "bench_precision", ["bench_runtimes=[eager]"]),
    ("prune", ["ckpt=x", "pruner.keep_schedule=[0.75,0.5]", "pruner.keep_ratio=0.2"], "pruner.keep_ratio", ["pruner.keep_schedule=[]"]),
    ("prune", ["ckpt=x", "pruner.target_params=1000", "pruner.keep_ratio=0.3"], "pruner.keep_ratio", ["pruner.target_params=null"]),
    ("export", ["ckpt=x", "max_miou_drop=0.001"], "max_miou_drop", ["precision=int8"]),
    ("bench", ["runtime=onnxruntime", "runtime.calibration_images=500"], "runtime.calibration_images", ["precision=int8"]),
    ("eval", ["ckpt=x", "normalization=weights"], "normalization", ["normalization=same"]),
    ("predict", ["ckpt=x", "source=x", "batch=8", "protocol.flip=true"], "batch", ["protocol.flip=false"]),
    ("compare", ["runs=[a,b]", "split=test"], "split", ["preds={x: y}"]),
    ("compare", ["runs=[a,b]", "post=crf"], "post=crf", ["modules=['m:f']"]),
    ("eval", ["ckpt=x", "protocol.average=logits"], "protocol.average", ["protocol.flip=true"]),
    ("predict", ["ckpt=x", "source=x", "overlays=none", "alpha=0.3"], "alpha", ["overlays=jpg"]),
    ("predict", ["ckpt=x", "source=x", "actors=3"], "actors", ["engine=ray"]),
    ("predict", ["ckpt=x", "source=x", "engine=ray", "alpha=0.3"], "alpha", ["engine=local"]),
    ("predict", ["ckpt=x", "source=x", "every=3"], "every", ["source=0"]),
    ("predict", ["ckpt=x", "source=x", "recursive=false"], "recursive", ["source=."]),
    ("predict", ["ckpt=x", "source=x", "runtime=openvino", "runtime.calibration_images=3"], "runtime.calibration_images", ["runtime.calibration_images=16"]),
]  # fmt: skip


def test_sections_may_omit_settings():
    section = {"name": "teacher", "ckpt": "x", "weight": 0}
    (note,) = idle_settings("train", resolve_config(composed("train"))[0] | {"distill": section})
    assert note == "distill=teacher has no effect: distill.weight is 0."


@cache
def composed(command: str, *choices: str) -> DictConfig:
    parsed = parse_overrides(command, choices)
    assert not parsed.errors
    return parsed.jobs[0]


def notes(command: str, overrides: list[str]) -> list[str]:
    """Notes on a command, whose choices of groups are composed once."""
    choices = [text for text in overrides if text.partition("=")[0] in SECTIONS]
    values = OmegaConf.from_dotlist([text for text in overrides if text not in choices])
    return idle_settings(command, resolve_config(OmegaConf.merge(composed(command, *choices), values))[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(("command", "overrides", "key", "change"), IDLE, ids=lambda value: value if isinstance(value, str) else "")
def test_a_setting_without_effect_is_named(command, overrides, key, change):
    (note,) = notes(command, overrides)
    assert note.startswith(key) and "has no effect" in note
    kept = [override for override in overrides if override.partition("=")[0] not in {text.partition("=")[0] for text in change}]
    assert notes(command, kept + change) == []


@pytest.mark.parametrize("model", sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
def test_no_model_has_a_setting_without_effect(model):
    assert notes("train", [f"model={model}"]) == []


def test_every_rule_names_existing_settings():
    from segzoo.config.commands import COMMANDS

    plain = {key for command in COMMANDS.values() for key in command.settings()}
    for rule in RULES:
        registry = SECTIONS.get(rule.section)
        names = rule.names or (registry.names() if registry else ())
        known = plain if registry is None else {key for name in names for key in registry.settings(name)}
        assert set(rule.keys) <= known and (registry is None or set(names) <= set(registry.names()))


def test_every_rule_has_a_case():
    found = [note for command, overrides, _, _ in IDLE for note in notes(command, overrides)]
    unused = [rule for rule in RULES if not any(note.endswith(f"no effect: {rule.reason}.") for note in found)]
    assert unused == []
