"""Recipes of papers hold the published settings."""

from __future__ import annotations

import json
import re

import pytest
from test_conf import CONF, compose

FCN = {"optim.momentum": 0.99, "optim.weight_decay": 2.7e-9, "optim.bias_lr_mult": 2.0, "batch_size": 1, "schedule.name": "fixed"}
DEEPLAB = {"optim.lr": 1e-3, "optim.momentum": 0.9, "optim.weight_decay": 5e-4, "optim.bias_lr_mult": 2.0}
PSPNET = {
    "optim.lr": 0.01,
    "optim.momentum": 0.9,
    "optim.weight_decay": 1e-4,
    "optim.head_lr_mult": 10.0,
    "optim.bias_lr_mult": 2.0,
    "schedule.name": "poly",
    "schedule.power": 0.9,
    "batch_size": 16,
    "bn_momentum": 0.05,
    "loss.resolution": "logits",
    "model.aux_weight": 0.4,
}
PUBLISHED = {  # FCN's rates are those of the release, which sums the loss, times 500 x 375 pixels
    "voc_fcn32s": FCN | {"optim.lr": pytest.approx(1e-10 * 500 * 375, rel=0.02)},
    "voc_fcn16s": FCN | {"optim.lr": pytest.approx(1e-12 * 500 * 375, rel=0.02)},
    "voc_fcn8s": FCN | {"optim.lr": pytest.approx(1e-14 * 500 * 375, rel=0.02)},
    "voc_fcn8s_at_once": FCN | {"optim.lr": pytest.approx(1e-10 * 500 * 375, rel=0.02)},
    "voc_parsenet": DEEPLAB | {"optim.head_lr_mult": 10.0, "schedule.name": "poly", "augment.crop": None},
    "voc_largefov": DEEPLAB
    | {
        "optim.head_lr_mult": 10.0,
        "schedule.name": "step",
        "schedule.every": 2000,
        "schedule.gamma": 0.1,
        "steps": 6000,
        "batch_size": 30,
        "augment.crop": [321, 321],
        "loss.resolution": "model",
    },
    "voc_msc_largefov": DEEPLAB | {"optim.head_lr_mult": 1.0, "model.msc": "frozen", "augment.crop": [321, 321]},
    "voc_pspnet101": PSPNET | {"augment.crop": [473, 473], "steps": 30000},
    "cityscapes_pspnet101": PSPNET | {"augment.crop": [713, 713], "steps": 90000},
    "cityscapes_icnet": {
        "optim.lr": 0.01,
        "optim.momentum": 0.9,
        "optim.weight_decay": 1e-4,
        "optim.head_lr_mult": 1.0,
        "schedule.name": "poly",
        "schedule.power": 0.9,
        "batch_size": 16,
        "steps": 30000,
        "bn_momentum": 0.05,
        "augment.crop": [769, 769],
        "model.guidance": [0.16, 0.4],
        "data.mean": [123.68, 116.779, 103.939],
        "data.std": [1.0, 1.0, 1.0],
        "backbone.width": 0.5,
    },
}


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_a_recipe_holds_the_published_settings(experiment):
    config = compose("train", f"experiment={experiment}")
    actual = {}
    for key in PUBLISHED[experiment]:
        value = config
        for part in key.split("."):
            value = value[part]
        actual[key] = value
    assert actual == PUBLISHED[experiment]


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_a_header_quotes_its_result_file(experiment):
    (line,) = re.findall(r"^# result: (.*)$", (CONF / "experiment" / f"{experiment}.yaml").read_text(), re.MULTILINE)
    if line == "not run":
        return
    content = json.loads((CONF.parent / line.rpartition(" ")[2]).read_text())
    if line.startswith("several networks, benchmarks/results/"):
        assert len(content["rows"]) > 1
        return
    result = content["result"]
    score, minutes = f"{100 * result['miou']:.2f} mIoU", f"{result['train_minutes']:.0f} minutes"
    assert line.startswith(f"{score} after {result['steps']} steps in {minutes}, benchmarks/results/")


@pytest.mark.parametrize("path", sorted(CONF.rglob("camvid*.yaml")), ids=lambda path: path.stem)
def test_epochs_in_comments_follow_from_the_steps(path):
    """CamVid's training split has 367 images, and batches have 8."""
    for steps, epochs in re.findall(r"^\w+: (\d+) # (\d+) epochs$", path.read_text(), re.MULTILINE):
        assert round(int(steps) * 8 / 367) == int(epochs)
