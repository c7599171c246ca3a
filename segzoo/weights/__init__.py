"""Starting points: loading weights into a trunk or a whole model, with an account of what became of every tensor."""

from __future__ import annotations

from segzoo.weights.files import locate, read_metadata, read_state
from segzoo.weights.report import Report, say
from segzoo.weights.trunk import load_trunk
from segzoo.weights.whole import checkpoint

__all__ = ["Report", "checkpoint", "load_trunk", "locate", "read_metadata", "read_state", "say"]
