"""Checks of a prediction's settings that import no torch."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Mapping
from contextlib import suppress

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.checkpoints.paths import resolve_weight_file
from segzoo.checkpoints.schema import CheckpointError
from segzoo.checkpoints.stored_classes import stored_classes
from segzoo.config.checks.runtime import runtime_errors
from segzoo.data.dataset_info import unknown_class_error
from segzoo.inference.outputs.rules import rule_errors
from segzoo.inference.sources.kinds import STANDARD_INPUT, VIDEO_KINDS, source_kind, without_credentials
from segzoo.inference.sources.path_lists import read_path_list
from segzoo.messages import relative_to
from segzoo.registry import ConfigError
from segzoo.runs.output_dir import only_new_errors
from segzoo.types import PlainMapping

ON_RAY = {"format": "index", "confidence": "none", "polygons": "none", "fail_if": None, "only": "all", "overwrite": False}


def prediction_errors(config: PlainMapping) -> list[str]:
    """List contradictions between the source, the results and the classes."""
    errors = only_new_errors(config.get("only"), config.get("out"), config.get("overwrite"))
    source = config.get("source")
    if config.get("engine") == "ray":
        errors += ray_errors(config)
    elif isinstance(source, str | int):
        errors += source_errors(source) + rank_errors(source) + _format_errors(config, source_kind(source))
    return errors + runtime_errors(config) + _class_errors(config)


def source_errors(source: str | int) -> list[str]:
    """List the errors of a source. Cameras and streams are opened later."""
    kind = source_kind(source)
    if kind == "images" and not os.path.exists(str(source)) and not any(glob.iglob(str(source), recursive=True)):
        return [f"source={source} is not a file or folder and matches no image{relative_to(str(source))}."]
    if source == STANDARD_INPUT and sys.stdin is not None and sys.stdin.isatty():
        return [
            "source=- reads paths from standard input, which is the keyboard. Pipe them: find images -name '*.png' | python "
            "tools/predict.py source=- ..."
        ]
    if kind == "list" and source != STANDARD_INPUT:
        try:
            read_path_list(str(source))
        except ConfigError as error:
            return error.errors
    return []


def ray_errors(config: PlainMapping) -> list[str]:
    """List settings that a Ray cluster cannot follow."""
    errors = [
        f"engine=ray writes label maps of class ids only. Omit {key}=."
        for key, value in ON_RAY.items()
        if config.get(key, value) != value
    ]
    runtime, ckpt = config.get("runtime"), config.get("ckpt")
    if isinstance(runtime, Mapping) and runtime.get("name") != "eager":
        errors.append(f"engine=ray runs networks with runtime=eager. Omit runtime={runtime.get('name')}.")
    if isinstance(ckpt, str) and find_exported_file(ckpt) is not None:
        errors.append(f"engine=ray needs a checkpoint, and ckpt={ckpt} is an exported file.")
    if config.get("out") is None:
        errors.append("engine=ray: set out to a folder that all machines share, or to a URL such as s3://bucket/labels.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        errors.append("engine=ray starts its own processes. Use python tools/predict.py instead of torchrun.")
    return errors


def rank_errors(source: str | int) -> list[str]:
    """Reject a source that the processes of torchrun cannot share."""
    kind = source_kind(source)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not (kind in VIDEO_KINDS or source == STANDARD_INPUT):
        return []
    name, files = (
        ("standard input", "write its paths to a .txt file")
        if source == STANDARD_INPUT
        else (f"a {kind}", "give its frames as files")
    )
    return [
        f"source={without_credentials(str(source))}: torchrun shares images among processes, and only one process can read {name}. Start "
        f"python tools/predict.py instead, or {files}."
    ]


def _format_errors(config: PlainMapping, kind: str) -> list[str]:
    errors, is_video = [], kind in VIDEO_KINDS
    if config.get("overlays") == "video" and not is_video:
        errors.append(
            "overlays=video is for a video, a camera or a stream, and source= has images. Set overlays=png or overlays=jpg."
        )
    if config.get("format") in ("cityscapes", "voc") and is_video:
        errors.append(f"format={config['format']} packs images for a test server, and source= is a {kind}. Set format=index.")
    if config.get("polygons") == "coco" and (is_video or kind == "embedded"):
        what = f"{config['source']} has none" if kind == "embedded" else f" is a {kind}"
        errors.append(f"polygons=coco names image files, and source={what}. Set polygons=labelme, which embeds the images.")
    if config.get("polygons") == "coco" and config.get("format") not in (None, "index"):
        errors.append(f"polygons=coco is made from label maps of class ids, not format={config['format']}. Set format=index.")
    return errors


def _class_errors(config: PlainMapping) -> list[str]:
    """List unknown classes in settings, if the checkpoint names its own."""
    ckpt, fail_if = config.get("ckpt"), config.get("fail_if")
    rules = fail_if if isinstance(fail_if, Mapping) else None
    classes = None
    if isinstance(ckpt, str) and find_exported_file(ckpt) is None:
        with suppress(CheckpointError):  # which is reported as an error of ckpt
            classes = stored_classes(resolve_weight_file(ckpt))
    errors = rule_errors(rules, classes)
    if classes is None:
        return errors
    for key in ("hide", "threshold"):
        given = config.get(key)
        names = [name for name in given if isinstance(name, str)] if isinstance(given, list | Mapping) else []
        errors += [f"{key}: the class {unknown_class_error(name, classes)}" for name in names if name not in classes]
    return errors
