"""Networks whose resampling does not match the pools of their backbone."""

from __future__ import annotations

from segzoo.types import PlainMapping


def alignment_notes(config: PlainMapping) -> list[str]:
    """Note resampling with aligned corners after 2x2 pools.

    Their outputs lie between pixels, so no size of the image has one in each corner of every feature map. The labels are stretched by up to
    half a stride at the border.

    Args:
        config: a resolved configuration. Those without a model and a backbone have no notes.
    """
    model, backbone = config.get("model") or {}, config.get("backbone") or {}
    if not model.get("align_corners") or backbone.get("pool", "deeplab") == "deeplab":
        return []
    return [
        f"model.align_corners=true with backbone.pool={backbone['pool']} shifts labels near the border by up to half a stride, because 2x2 "
        "pools keep no corner pixels. backbone.pool=deeplab does."
    ]
