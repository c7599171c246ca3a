"""Starting points: loading weights into a trunk or a whole model, with an account of what became of every tensor."""

from __future__ import annotations

from segzoo.weights.files import is_published, locate, published, read_metadata, read_state
from segzoo.weights.layouts import to_caffe, to_own
from segzoo.weights.report import Report, say
from segzoo.weights.trunk import load_trunk
from segzoo.weights.whole import checkpoint

__all__ = [
    "Report",
    "checkpoint",
    "is_published",
    "load_trunk",
    "locate",
    "published",
    "read_metadata",
    "read_state",
    "say",
    "to_caffe",
    "to_own",
]
