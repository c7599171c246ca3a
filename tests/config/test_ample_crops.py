"""Crops that every model accepts, which validation does not try."""

from __future__ import annotations

import pytest
import torch

from segzoo.config.build import build_meta_model
from segzoo.config.cross_checks import AMPLE_SIDE, TESTED_BACKBONES
from segzoo.config.presets import backbone_preset, model_preset, preset_error, preset_names
from segzoo.layers.modes import ShapesOnly


@pytest.mark.parametrize("name", preset_names("model"))
def test_every_model_trains_on_ample_crops(name):
    preset = model_preset(name)
    for backbone in (preset.backbone, "resnet50", "vgg16"):
        if preset_error(name, backbone) is None:
            sections = {"model": preset.model, "backbone": backbone_preset(backbone) | preset.backbone_settings}
            model = build_meta_model(sections, num_classes=5)
            assert type(model.backbone).__module__ in TESTED_BACKBONES
            with ShapesOnly():
                logits = model.train()(torch.empty(2, 3, AMPLE_SIDE, AMPLE_SIDE + 1, device="meta"))
            assert min(logits.main.shape[-2:]) > 1
