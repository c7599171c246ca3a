"""Starting points: loading weights into a trunk or a whole model, with an account of what became of every tensor."""

from __future__ import annotations

from segzoo.weights.files import is_published, published, read_state, read_weights
from segzoo.weights.layouts import to_caffe, to_own
from segzoo.weights.report import Report, say
from segzoo.weights.trunk import load_trunk
from segzoo.weights.whole import checkpoint

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
