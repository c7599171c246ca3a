"""Model settings that several benchmarks measure, by name."""

from __future__ import annotations

from typing import Any

CAFFE_RESNET50 = {"name": "resnet50", "stem": "deep", "stride_at": "1x1"}
DEEPLAB_VGG16 = {"name": "vgg16", "pool": "deeplab"}

# name -> settings of the model and of its backbone
NETWORKS: dict[str, dict[str, dict[str, Any]]] = {
    "icnet_half": {"model": {"name": "icnet"}, "backbone": {**CAFFE_RESNET50, "width": 0.5}},
    "icnet": {"model": {"name": "icnet"}, "backbone": CAFFE_RESNET50},
    "pspnet": {"model": {"name": "pspnet"}, "backbone": CAFFE_RESNET50},
    "fcn_dilated": {"model": {"name": "fcn_dilated"}, "backbone": {"name": "resnet50"}},
    "parsenet": {"model": {"name": "parsenet"}, "backbone": DEEPLAB_VGG16},
    "largefov": {"model": {"name": "deeplab_largefov"}, "backbone": DEEPLAB_VGG16},
}
