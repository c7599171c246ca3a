"""Starting points: loading weights into a trunk or a whole model, with an account of what became of every tensor."""

from __future__ import annotations

from segzoo.weights.conversion import to_caffe, to_own
from segzoo.weights.load_backbone import load_trunk
from segzoo.weights.load_model import checkpoint
from segzoo.weights.load_report import Report, say
from segzoo.weights.state_dict import is_published, published, read_state, read_weights

__all__ = [
    "Report",
    "checkpoint",
    "is_published",
    "load_trunk",
    "published",
    "read_state",
    "read_weights",
    "say",
    "to_caffe",
    "to_own",
]
