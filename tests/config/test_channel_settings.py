"""Settings that do not suit other channels or 16 bits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch import nn

from segzoo.checkpoints.store import step_dir
from segzoo.checkpoints.writing import save_checkpoint
from segzoo.config.build import build_data
from segzoo.config.cross_checks import _scale_warnings
from segzoo.config.from_checkpoint import dataset_config
from segzoo.config.from_export import network_protocol
from segzoo.config.from_weights import Policy, choose_normalization
from segzoo.inference.sources.opening import open_source
from segzoo.pixel_format import IMAGENET, PixelFormat
from segzoo.registry import ConfigError
from segzoo.types import DatasetInfo

FOLDER = {"name": "folder", "root": "nowhere", "classes": ["background", "part"]}


def section(**settings):
    return {**FOLDER, **settings}


def weights(data, policy: Policy = "same", init=None):
    config = {"data": data, "init": {"name": "checkpoint", "ckpt": init}, "backbone": {"name": "resnet50", "weights": "imagenet"}}
    return choose_normalization(config, normalization=policy)


def test_weights_for_rgb_keep_the_normalization_of_other_channels(tmp_path):
    data, note = weights(section(channels=1, mean=[90.0], std=[40.0]))
    assert data["mean"] == [90.0] and "Its first convolution is adapted to 1, with mean [90] and std [40]" in note
    with pytest.raises(ConfigError, match="normalization=weights: .* images of 3 channels, and those of data=folder have 4"):
        weights(section(channels=4), "weights")
    four = DatasetInfo("made", ("a", "b"), ((0, 0, 0), (1, 1, 1)), (1.0,) * 4, (1.0,) * 4)
    save_checkpoint(tmp_path, 1, nn.Conv2d(1, 1, 1), {}, {}, four, {})
    with pytest.raises(ConfigError, match="takes images of 4 channels, and those of data=folder have 1. Only weights for RGB"):
        weights(section(channels=1), init=str(step_dir(tmp_path, 1)))
    assert weights(section(bits=16)) == (section(bits=16), "")  # ImageNet's on the scale of 16 bits
    data, _ = weights(section(bits=16, mean=[30000.0] * 3, std=[9000.0] * 3), "weights")
    assert data["mean"] == pytest.approx([257 * value for value in IMAGENET.mean])


def test_data_has_the_pixels_that_the_network_takes():
    meta = {"dataset": {"classes": FOLDER["classes"], "mean": [1.0, 1.0, 1.0]}, "config": {}}
    assert dataset_config(meta, section()) == section()
    for settings in ({"bits": 16}, {"channels": 4}):
        with pytest.raises(ConfigError, match="the checkpoint takes 3 channels of 8 bits. Set data.channels=3 data.bits=8"):
            dataset_config(meta, section(**settings))
    info = build_data(section(channels=1, bits=16), "val").info
    with pytest.raises(ConfigError, match="post=crf compares the colors .* takes 1 channel of 16 bits. Set post=none"):
        network_protocol({"post": {"name": "crf"}}, None, info, meta)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="source=0: its images are 8-bit RGB, and this network takes 4 channels of 8 bits"):
        open_source(Path("out"), pixels=PixelFormat(4, 8), source=0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"channels": 1, "bits": 16, "mean": [120.0], "std": [60.0]}, "scale 0 to 255, but images have 0 to 65535.*mean=.30840.0"),
        ({"channels": 1, "bits": 16, "mean": [0.5], "std": [0.25]}, "scale 0 to 1, but images have 0 to 65535.*mean=.32767.5"),
        ({"channels": 4, "mean": None, "std": None}, "are null.*action=stats data=... data.channels=4 data.bits=8"),
    ],
)
def test_doubtful_statistics_are_warned_about(settings, expected):
    data = section(**settings)
    (warning,) = _scale_warnings(data, build_data(data, "train").info)
    assert re.search(expected, warning), warning
