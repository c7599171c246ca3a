"""Loading weights into a backbone or a whole model."""

from __future__ import annotations

from segzoo.weights.conversion import convert_state_dict, to_caffe_state_dict
from segzoo.weights.load_backbone import load_backbone
from segzoo.weights.load_model import checkpoint
from segzoo.weights.load_report import LoadReport, log_rank0
from segzoo.weights.state_dict import published, read_weights

__all__ = [
    "LoadReport",
    "checkpoint",
    "convert_state_dict",
    "load_backbone",
    "log_rank0",
    "published",
    "read_weights",
    "to_caffe_state_dict",
]
