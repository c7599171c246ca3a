"""Parameter counts and operations of the published networks."""

from __future__ import annotations

import pytest
import torch
from small_models import num_parameters, on_meta, record_calls
from torch.utils.flop_counter import FlopCounterMode

from segzoo.layers.parameters import count_parameters

CAFFE = {"stem": "deep", "stride_at": "1x1"}


@pytest.mark.parametrize(
    "model, backbone, num_classes, options, settings, main, aux",
    [
        ("pspnet", "resnet50", 21, {"stem": "deep"}, {}, 46_716_373, 2_365_205),
        ("pspnet", "resnet50", 150, {"stem": "deep"}, {}, 46_782_550, 2_398_358),
        ("pspnet", "resnet101", 19, {"stem": "deep"}, {}, 65_707_475, 2_364_691),
        ("pspnet", "resnet101", 21, {"stem": "deep"}, {"aux_weight": 0}, 65_708_501, 0),
        ("pspnet", "resnet50", 19, {"stem": "v1c"}, {"concat": "ascending"}, 46_610_803, 2_364_691),
        ("icnet", "resnet50", 19, CAFFE | {"width": 0.5}, {}, 6_699_987, 7_334),
        ("icnet", "resnet50", 11, CAFFE | {"width": 0.5}, {}, 6_698_955, 4_246),
        ("icnet", "resnet50", 150, CAFFE | {"width": 0.5}, {}, 6_716_886, 57_900),
        ("icnet", "resnet50", 19, CAFFE, {}, 26_734_483, 14_630),
        ("icnet", "resnet50", 21, CAFFE, {}, 26_734_997, 16_170),
        ("icnet", "resnet50", 19, CAFFE | {"width": 0.25}, {}, 1_683_187, 3_686),
        ("fcn", "vgg16", 21, {}, {"stride": 32}, 136_152_917, 0),
        ("fcn", "vgg16", 21, {}, {"stride": 16}, 134_815_994, 0),
        ("fcn", "vgg16", 21, {}, {"stride": 8}, 134_489_759, 0),
        ("fcn", "vgg16", 150, {}, {}, 141_470_594, 0),
        ("parsenet", "vgg16", 21, {}, {}, 20_529_002, 0),
        ("parsenet", "vgg16", 21, {}, {"fusion": "early"}, 20_528_981, 0),
        ("parsenet", "vgg16", 59, {}, {}, 20_606_902, 0),
        ("deeplab_largefov", "vgg16", 21, {"pool": "deeplab"}, {}, 20_505_429, 0),
        ("deeplab_largefov", "vgg16", 21, {"pool": "deeplab"}, {"msc": "frozen"}, 21_711_550, 0),
        ("deeplab_largefov", "vgg16", 21, {}, {"kernel": 4, "dilation": 4, "fc_channels": 4096}, 65_140_565, 0),
        ("deeplab_largefov", "resnet50", 21, {}, {}, 43_454_549, 0),
        ("deeplab_largefov", "resnet101", 21, {}, {}, 62_446_677, 0),
        ("fcn_dilated", "resnet50", 21, {}, {}, 32_957_013, 2_365_205),
        ("fcn_dilated", "resnet101", 21, {}, {}, 51_949_141, 2_365_205),
        ("fcn_dilated", "resnet50", 19, {"stem": "v1c"}, {"convs": 2, "concat_input": True}, 47_133_043, 2_364_691),
    ],
)
def test_parameter_counts_are_the_published_ones(model, backbone, num_classes, options, settings, main, aux):
    built = on_meta(model, backbone, num_classes, options, **settings)
    assert (num_parameters(built) - num_parameters(built.aux), num_parameters(built.aux)) == (main, aux)
    assert count_parameters(built) == main


@pytest.mark.parametrize(
    "width, counts",
    [
        (0.5, {"conv5_4": 262_656, "cff24": 328_192, "cff12": 156_160, "high": 28_768, "score": 2_451}),
        (1.0, {"conv5_4": 1_049_600, "cff24": 1_311_744, "cff12": 623_616, "high": 112_832, "score": 4_883}),
    ],
)
def test_icnet_modules_have_the_released_counts(width, counts):
    model = on_meta("icnet", "resnet50", 19, CAFFE | {"width": width})
    assert {name: num_parameters(getattr(model, name)) for name in counts} == counts


def test_icnet_feature_maps_and_operations_at_the_released_size():
    model = on_meta("icnet", "resnet50", 19, CAFFE | {"width": 0.5})
    backbone = {"c1": "backbone.c1.0", "c3_1": "backbone.c3.0", "c3_2": "backbone.c3.1", "c5": "backbone.c5.2"}
    calls = record_calls(model, **backbone, low24="cff24.low", high24="cff24.high", low12="cff12.low", high="high", score="score")
    x = torch.randn(1, 3, 1025, 2049, device="meta")
    aux = model.train()(x).aux
    assert [tuple(logits.shape[1:]) for logits in aux] == [(19, 65, 129), (19, 129, 257)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(x)
    assert {name: tuple(output.shape[1:]) for name, (_, output) in calls.items()} == {
        "c1": (32, 257, 513),
        "c3_1": (256, 65, 129),
        "c3_2": (256, 33, 65),
        "c5": (1024, 33, 65),
        "low24": (128, 65, 129),
        "high24": (128, 65, 129),
        "low12": (128, 129, 257),
        "high": (64, 129, 257),
        "score": (19, 257, 513),
    }
    convolutions = sum(flops for name, flops in counter.get_flop_counts()["Global"].items() if "convolution" in str(name))
    assert convolutions / 2 == pytest.approx(29.812e9, rel=5e-4)
