"""Layer tables against published counts, and receptive fields against published values and gradients."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segzoo.cli.app import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.build import build_meta_model
from segzoo.layers.parameters import count_parameters
from segzoo.registry import BACKBONES, MODELS
from segzoo.workflows.benchmark.model_summary import describe, summary_table, totals

ROOT = Path(__file__).parents[2]
CAFFE = {"stem": "deep", "stride_at": "1x1"}


def rows_by_name(model, backbone, num_classes=21, hw=(513, 513), **settings):
    name, options = backbone
    with torch.device("meta"):
        network = MODELS.build(model, BACKBONES.build(name, **options), num_classes, **settings)
    return {row.name: row for row in describe(network, hw=hw)}


def test_icnet_has_the_published_parameters_and_operations():
    rows = rows_by_name("icnet", ("resnet50", CAFFE | {"width": 0.5}), 19, (1025, 2049))
    assert sum(row.params for row in rows.values()) == 6_699_987
    assert sum(row.macs for row in rows.values()) / 1e9 == pytest.approx(29.81, rel=0.005)
    assert rows["score"].output == (19, 257, 513) and rows["cff24.low.conv"].window == "3/1/2"


@pytest.mark.parametrize("branches", [124, 24, 4])
def test_parameters_of_branches_that_are_not_run_do_not_count(branches):
    with torch.device("meta"):
        network = MODELS.build("icnet", BACKBONES.build("resnet50", width=0.25), 7, branches=branches)
    assert count_parameters(network) == sum(row.params for row in describe(network, hw=(65, 97)))


@pytest.mark.parametrize("arch", ["mobilenetv3_small_050", "convnext_atto"])
def test_every_layer_of_timm_counts(arch):
    """Some have parameters next to their children, and ConvNeXt has linear layers."""
    with torch.device("meta"), torch.no_grad():
        encoder = BACKBONES.build("timm", arch=arch).eval()
        with FlopCounterMode(display=False) as counter:
            encoder(torch.empty(1, 3, 64, 96))
    rows = describe(encoder, hw=(64, 96))
    assert sum(row.params for row in rows) == sum(parameter.numel() for parameter in encoder.parameters())
    assert sum(row.macs for row in rows) == counter.get_total_flops() // 2


@pytest.mark.parametrize("side, gmacs", [(321, 50.93), (513, 128.59)])
def test_largefov_has_the_published_operations(side, gmacs):
    rows = rows_by_name("deeplab_largefov", ("vgg16", {"pool": "deeplab"}), hw=(side, side))
    assert sum(row.params for row in rows.values()) == 20_505_429
    assert sum(row.macs for row in rows.values()) / 1e9 == pytest.approx(gmacs, rel=0.005)


def test_fcn_counts_include_transposed_convolutions():
    rows = rows_by_name("fcn", ("vgg16", {"pool": "caffe"}), hw=(500, 500), geometry="pad100")
    assert sum(row.params for row in rows.values()) == 134_489_759
    assert sum(row.macs for row in rows.values()) / 1e9 == pytest.approx(181.53, rel=0.005)


@pytest.mark.parametrize(
    "backbone, layer, size",
    [
        (("vgg16", {}), "backbone.c5.6", 212),  # pool5; both values from Araujo et al., Distill 2019
        (("resnet50", {"stride_at": "1x1"}), "backbone.c5.2.relu", 483),
    ],
    ids=["vgg16", "resnet50"],
)
def test_backbones_have_the_published_receptive_fields(backbone, layer, size):
    assert rows_by_name("fcn", backbone, fc_channels=8)[layer].field == size


def test_fc7_sees_404_pixels_and_a_global_feature_the_whole_image():
    assert rows_by_name("fcn", ("vgg16", {}))["fc.3"].field == 404  # as stated in the ParseNet paper for VGG-16
    rows = rows_by_name("parsenet", ("vgg16", {"pool": "caffe"}))
    assert math.isinf(rows["global_norm"].field) and rows["local_norm"].field == rows["fc.3"].field < 500
    assert "| image |" in summary_table(list(rows.values()))


class Probe(nn.Module):
    """A network with strides, dilation, pooling and a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 2, 5, stride=2, padding=2)
        self.pool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        self.b = nn.Conv2d(2, 2, 3, padding=4, dilation=4)
        self.mean = nn.AvgPool2d(2)
        self.up = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1)
        self.last = nn.Conv2d(2, 1, 1)

    def forward(self, x):
        x = self.b(self.pool(self.a(x)))
        return self.last(torch.cat([x, x], 1)[:, :2] + self.up(self.mean(x)))


def test_receptive_fields_match_gradients():
    with torch.device("meta"):
        computed = {row.name: row.field for row in describe(Probe(), hw=(256, 256))}["last"]
    probe = Probe().double()
    for parameter in probe.parameters():
        nn.init.constant_(parameter, 1.0)
    probe.pool = nn.AvgPool2d(3, stride=2, padding=1)  # the same window, and every pixel of it gets a gradient
    measured = 0
    for offset in range(4):  # odd and even positions have different windows
        x = torch.ones(1, 3, 256, 256, dtype=torch.double, requires_grad=True)
        output = probe(x)
        output[0, 0, output.shape[2] // 2 + offset, output.shape[3] // 2].backward()
        assert x.grad is not None
        lines = x.grad[0, 0].abs().sum(1).nonzero().flatten()
        measured = max(measured, int(lines[-1] - lines[0]) + 1)
    assert measured <= computed <= measured + 8  # some outputs of a transposed convolution see fewer than ceil(k/s) inputs


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml")))
def test_every_parameter_of_every_model_is_in_the_table(name):
    config = resolve_config(parse_overrides("describe", [f"model={name}"]).jobs[0])[0]
    model = build_meta_model(config, num_classes=21)
    assert totals(describe(model, hw=(128, 160)))["params"] == count_parameters(model)


@pytest.mark.integration
def test_the_tool_prints_the_table():
    overrides = ["model=deeplab_largefov", "model.dilation=4", "hw=[321,321]", "num_classes=11"]
    process = subprocess.run([sys.executable, "tools/describe.py", *overrides], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "| fc.0 | Conv2d | 3/1/4 | 1024x41x41 |" in process.stdout and "20,495,179" in process.stdout
