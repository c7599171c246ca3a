"""Settings that have no effect because of other settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.config.commands import COMMANDS
from segzoo.config.sections import SECTIONS
from segzoo.inference.sources.kinds import VIDEO_KINDS, source_kind
from segzoo.registry import Setting
from segzoo.runs.resume_checks import names_a_run
from segzoo.types import PlainMapping

Sections = Mapping[str, PlainMapping]


class Rule(NamedTuple):
    """Settings that another one switches off.

    Attributes:
        names: names that the section may have. Empty: all.
        keys: the settings, within the section.
        is_idle: whether they have no effect, given all sections; plain settings are the section ``""``.
        reason: the cause, and what would give them an effect.
        commands: the tools that it is for. Empty: all that have the settings.
    """

    section: str
    names: tuple[str, ...]
    keys: tuple[str, ...]
    is_idle: Callable[[Sections], bool]
    reason: str
    commands: tuple[str, ...] = ()


def _off(section: str, *keys: str) -> Callable[[Sections], bool]:
    """Return a test of whether all these settings are off."""
    return lambda config: not any(config[section].get(key) for key in keys)


def _without_score(name: str) -> Callable[[Sections], bool]:
    """Return a test of whether an optional score is not computed."""
    return lambda config: name not in config[""].get("scores", ())


def _fixed_dilation(config: Sections) -> bool:
    is_vgg = config["backbone"]["name"].startswith("vgg")
    return is_vgg or config["model"].get("output_stride", 8) == 32


def _no_fc(config: Sections) -> bool:
    channels = config["model"]["fc_channels"]
    return channels == 0 or (channels is None and not config["backbone"]["name"].startswith("vgg"))


def _never_halved(config: Sections) -> bool:
    smallest, largest = config["augment"]["scale_range"]
    return not config["augment"]["scale"] or smallest > 0.5 or smallest == 0.5 < largest  # drawn with probability zero


def _other_format(*formats: str) -> Callable[[Sections], bool]:
    """Return a test of whether a conversion reads none of the formats."""
    return lambda config: config["action"]["format"] not in formats


def _on_ray(config: Sections) -> bool:
    return config[""].get("engine") == "ray"


def _one_pass(config: Sections) -> bool:
    protocol = config["protocol"]
    return len(protocol["scales"]) == 1 and not any(protocol[key] for key in ("flip", "pad_multiple", "resize_multiple"))


def _from_checkpoint(config: Sections) -> bool:
    return config[""]["ckpt"] is not None


def _from_scratch(config: Sections) -> bool:
    sources = config[""].get("ckpt"), config["init"]["ckpt"], config["backbone"].get("weights")
    return not names_a_run(config[""].get("resume")) and not set(sources) - {None, "none"}


def _image_by_image(config: Sections) -> bool:
    protocol = config["protocol"]
    return protocol["name"] != "whole" or not _one_pass(config) or config["post"]["name"] != "none"


def _other_ratio(config: Sections) -> bool:
    pruner = config["pruner"]
    return bool(pruner["keep_schedule"]) or any(pruner.get(f"target_{kind}") is not None for kind in ("ms", "gmacs", "params"))


def _nothing_to_score(config: Sections) -> bool:
    """True if tools/compare.py is given evaluated runs alone."""
    return not config[""]["modules"] and not any(find_exported_file(run) for run in config[""]["runs"])


PROTOCOL = ("scales", "flip", "crop", "stride", "average", "input_hw", "pad_multiple", "resize_multiple")
DILATED = ("deeplab_largefov", "fcn_dilated", "icnet", "parsenet", "pspnet")
SCORED = "every model has its scores. Evaluate a run with other settings: tools/eval.py"
NO_TARGET = "it is for a target. Set pruner.target_ms=<milliseconds>"
RULES = (
    Rule("model", ("fcn", "parsenet"), ("dropout",), _no_fc, "there are no fc6 and fc7. Set model.fc_channels=<width>"),
    Rule("model", ("fcn",), ("at_once",), lambda c: c["model"]["stride"] == 32, "stride 32 adds no scores. Set model.stride=8"),
    Rule("model", ("parsenet",), ("kernel", "dilation"), _no_fc, "there is no fc6. Set model.fc_channels=<width>"),
    Rule("model", ("pspnet",), ("pool", "reduce", "concat"), _off("model", "bins"), "there is no pooling. Set model.bins=<grid sizes>"),
    Rule(
        "model",
        DILATED,
        ("first_block_dilation",),
        _fixed_dilation,
        "only a ResNet with a dilated stage has such a block. Set model.output_stride=8 and a ResNet",
    ),
    Rule("model", ("icnet",), ("guidance",), lambda c: c["model"]["branches"] == 4, "one branch has no guidance. Set model.branches=124"),
    Rule("schedule", (), ("warmup_factor",), _off("schedule", "warmup"), "there is no warm-up. Set schedule.warmup=<steps>"),
    Rule("augment", (), ("scale_range",), _off("augment", "scale"), "images are not scaled. Set augment.scale=true"),
    Rule("augment", (), ("reduced_jpeg",), lambda c: c["data"]["cache"] in ("ram", "disk"), "images are cached. Set data.cache=none"),
    Rule("augment", (), ("reduced_jpeg",), _never_halved, "no image is halved. Set 'augment.scale_range=[0.25,1]'"),
    Rule("pruner", (), ("runtime", "precision"), _off("pruner", "target_ms"), NO_TARGET),
    Rule("pruner", (), ("hw",), _off("pruner", "target_ms", "target_gmacs"), NO_TARGET),
    Rule("init", (), ("match", "min_share", "narrow"), _off("init", "ckpt"), "nothing is loaded. Set init.ckpt=<run or file>"),
    Rule("post", (), ("bilateral_xy", "bilateral_rgb"), _off("post", "bilateral_weight"), "that term is 0. Set post.bilateral_weight=4"),
    Rule("post", (), ("gaussian_xy",), _off("post", "gaussian_weight"), "that term is 0. Set post.gaussian_weight=3"),
    Rule("distill", (), ("layer_weight",), _off("distill", "layers"), "no layer is compared. Set distill.layers=<names>"),
    Rule("protocol", ("whole",), ("average",), _one_pass, "there is one pass. Set protocol.flip=true, or several protocol.scales"),
    Rule("", (), ("bench_precision",), _off("", "bench_runtimes"), "nothing is timed. Set bench_runtimes=<names>"),
    *(
        Rule("", (), keys, _without_score(name), f"scores lacks {name}. Set 'scores=[{name}]'")
        for name, keys in (
            ("boundary_iou", ("boundary_ratio",)),
            ("trimap", ("trimap_widths",)),
            ("boundary_f", ("boundary_tolerance",)),
            ("calibration", ("calibration_bins",)),
            ("blobs", ("defects", "blob_overlaps", "blob_pixels", "blob_recall", "blob_curve")),
        )
    ),
    Rule("", (), ("precision",), _nothing_to_score, SCORED),
    Rule("", (), ("split",), lambda c: _nothing_to_score(c) and not c[""]["preds"], SCORED),
    Rule("", (), ("normalization",), _from_checkpoint, "the checkpoint has its own. Omit it", ("eval", "bench", "predict")),
    Rule("", (), ("normalization",), _from_scratch, "no weights are loaded. Set init.ckpt=<run or file>", ("train", "prune")),
    Rule("", (), ("calibration_images", "max_miou_drop"), lambda c: c[""]["precision"] != "int8", "they are for precision=int8"),
    Rule("runtime", (), ("calibration_images",), lambda c: c[""]["precision"] != "int8", "it is for precision=int8", ("bench",)),
    Rule("", (), ("batch",), _image_by_image, "this protocol labels one image at a time", ("predict",)),
    Rule("pruner", (), ("keep_ratio",), _other_ratio, "pruner.keep_schedule or the target decides"),
    Rule("protocol", (), PROTOCOL, _nothing_to_score, SCORED),
    Rule("", (), ("group_by",), lambda c: c[""].get("max_compared") == 0, "no runs are compared. Set max_compared=<rows>"),
    Rule("", (), ("alpha", "hide"), lambda c: c[""].get("overlays") == "none", "no overlay is drawn. Set overlays=png"),
    Rule("runtime", (), ("channels_last", "calibration_images"), lambda c: True, "it is a setting of tools/bench.py", ("predict",)),
    Rule("", (), ("overlays", "alpha", "hide", "regions", "recursive", "batch", "tile"), _on_ray, "engine=ray writes label maps only"),
    Rule("", (), ("seed",), _from_checkpoint, "a checkpoint has no random weights", ("bench",)),
    Rule("", (), ("tile",), lambda c: c["protocol"]["name"] != "whole", "it is for protocol=whole, and windows have protocol.crop"),
    Rule("", (), ("blob_recall",), lambda c: c[""]["blob_curve"] is False, "there is no operating curve. Set blob_curve=true"),
    Rule("action", ("split",), ("val_ratio",), lambda c: c["action"]["folds"] is not None, "action.folds divides all images"),
    Rule("action", ("convert",), ("image_root",), lambda c: c["action"]["format"] == "yolo", "the YAML file of yolo names the folders"),
    Rule("action", ("convert",), ("unlabeled",), _other_format("labelme", "yolo"), "it is for labelme and yolo"),
    Rule("action", ("convert",), ("ignore_flags",), _other_format("labelme"), "only files of labelme have flags"),
    Rule("action", ("convert",), ("crowd",), _other_format("coco", "datumaro"), "only files of coco and datumaro mark crowds"),
    Rule("action", ("convert",), ("datumaro_format",), _other_format("datumaro"), "it is for action.format=datumaro"),
    Rule("", (), ("actors",), lambda c: not _on_ray(c), "it is for a Ray cluster. Set engine=ray"),
    Rule("", (), ("every", "max_frames"), lambda c: source_kind(c[""]["source"]) not in VIDEO_KINDS, "the source is not a video"),
    Rule("", (), ("recursive",), lambda c: not os.path.isdir(str(c[""]["source"])), "the source is not a folder"),
)  # fmt: skip


def idle_settings(command: str, config: PlainMapping) -> list[str]:
    """List settings that differ from their defaults and have no effect.

    Args:
        command: the tool's name, such as ``train``.
        config: its valid configuration.

    Returns:
        One line each, with the reason.
    """
    sections = {name: section for name, section in config.items() if name in SECTIONS and section}
    sections[""] = {key: value for key, value in config.items() if key not in SECTIONS}
    notes = (
        _single_images(sections) + _nothing_weighed(sections) + (_unused_in_comparison(sections) if command == "compare" else [])
    )
    for rule in (rule for rule in RULES if not rule.commands or command in rule.commands):
        section = sections.get(rule.section, {})
        known = _settings(command, rule.section, section)
        keys = [key for key in rule.keys if key in section and key in known and _differs(section[key], known[key].default)]
        if keys and (not rule.names or section["name"] in rule.names) and _applies(rule, sections):
            prefix = f"{rule.section}." if rule.section else ""
            notes += [f"{prefix}{key}={section[key]} has no effect: {rule.reason}." for key in keys]
    return notes


def _applies(rule: Rule, sections: Sections) -> bool:
    """Evaluate a rule, which fails without the sections it needs."""
    try:
        return rule.is_idle(sections)
    except KeyError:
        return False


def _settings(command: str, section: str, values: PlainMapping) -> dict[str, Setting]:
    if not section:
        return COMMANDS[command].settings()
    return SECTIONS[section].settings(values["name"]) if "name" in values else {}


def _differs(value: object, default: object) -> bool:
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return list(value) != list(default)
    return value != default


def _single_images(sections: Sections) -> list[str]:
    mix = sections.get("mix", {}).get("name", "none")
    if mix == "none" or sections[""].get("batch_size") != 1:
        return []
    return [f"mix={mix} has no effect: it mixes the images of a forward pass, and batch_size is 1. Set batch_size=2 or more."]


def _nothing_weighed(sections: Sections) -> list[str]:
    """Find sections that are chosen and then switched off."""
    distill, notes = sections.get("distill", {}), []
    compares_layers = distill.get("layers") and distill.get("layer_weight", 1)
    for name, key in {"distill": "weight", "mix": "prob", "post": "iterations"}.items():
        section = sections.get(name, {})
        if section.get(key) == 0 and not (name == "distill" and compares_layers):
            notes.append(f"{name}={section['name']} has no effect: {name}.{key} is 0.")
    if distill.get("layers") and not compares_layers and distill.get("weight", 1):
        notes.append("distill.layers has no effect: distill.layer_weight is 0.")
    return notes


def _unused_in_comparison(sections: Sections) -> list[str]:
    if not _nothing_to_score(sections):
        return []
    post, data = sections.get("post", {}).get("name", "none"), sections.get("data", {}).get("name")
    notes = [f"post={post} has no effect: {SCORED}."] if post != "none" else []
    if data is not None and not sections[""]["preds"]:
        notes.append(f"data={data} {'only shows images in report.html' if sections['']['report'] else 'has no effect'}: {SCORED}.")
    return notes
