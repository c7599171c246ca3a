"""Resampling that does not match the backbone's pools is noted."""

from __future__ import annotations

import pytest

from segzoo.cli.compose import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.checks.alignment import alignment_notes


@pytest.mark.parametrize(
    ("overrides", "noted"),
    [
        (["model=pspnet", "backbone=vgg16"], True),
        (["model=icnet", "backbone=vgg16_bn", "backbone.pool=caffe"], True),
        (["model=icnet", "backbone=vgg16_bn", "backbone.pool=deeplab"], False),
        (["model=pspnet", "backbone=vgg16", "model.align_corners=false"], False),
        (["model=deeplab_largefov"], False),
        (["model=fcn"], False),
        (["model=icnet"], False),
    ],
)
def test_aligned_corners_after_small_pools_are_noted(overrides, noted):
    parsed = parse_overrides("train", overrides)
    assert not parsed.errors
    assert bool(alignment_notes(resolve_config(parsed.jobs[0])[0])) == noted


@pytest.mark.parametrize(("arch", "noted"), [("test_convnext", True), ("resnet10t", False), ("mobilenetv3_small_050", False)])
def test_aligned_corners_after_even_kernels_of_encoders_are_noted(arch, noted):
    pytest.importorskip("timm")
    config = {"model": {"name": "pspnet", "align_corners": True, "output_stride": 8}, "backbone": {"name": "timm", "arch": arch}}
    assert [f"backbone.arch={arch} shifts labels" in note for note in alignment_notes(config)] == [True] * noted
    config["model"]["align_corners"] = False
    assert alignment_notes(config) == []


def test_an_encoder_that_cannot_be_built_has_no_note():
    config = {"model": {"name": "pspnet", "align_corners": True}, "backbone": {"name": "timm", "arch": "no_such_encoder"}}
    assert alignment_notes(config) == []


def test_a_tool_without_a_model_has_no_note():
    assert alignment_notes({"ckpt": "runs/first", "model": None}) == []
