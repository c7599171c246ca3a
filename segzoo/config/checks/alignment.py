"""Networks whose resampling does not match the pools of their backbone."""

from __future__ import annotations

from segzoo.registry import ConfigError
from segzoo.types import PlainMapping


def alignment_notes(config: PlainMapping) -> list[str]:
    """Note resampling with aligned corners after strided kernels of even size.

    Such kernels are 2x2 pools, or the patches of encoders such as ConvNeXt. Their outputs lie between pixels, so no size of the image has one in
    each corner of every feature map. The labels are stretched by up to half a stride at the border.

    Args:
        config: a resolved configuration. Those without a model and a backbone have no notes.
    """
    model, backbone = config.get("model") or {}, config.get("backbone") or {}
    if not model.get("align_corners"):
        return []
    if backbone.get("name") == "timm" and not _keeps_corners(backbone["arch"], model.get("output_stride", 8)):
        return [
            f"model.align_corners=true with backbone.arch={backbone['arch']} shifts labels near the border by up to half a stride, because its "
            "strided layers keep no corner pixels. Those of encoders with odd kernels, such as resnet18, do."
        ]
    if backbone.get("pool", "deeplab") == "deeplab":
        return []
    return [
        f"model.align_corners=true with backbone.pool={backbone['pool']} shifts labels near the border by up to half a stride, because 2x2 "
        "pools keep no corner pixels. backbone.pool=deeplab does."
    ]


def _keeps_corners(arch: str, output_stride: int) -> bool:
    """Look for corner pixels in the feature maps of an encoder.

    One that cannot be built has no note, because it is reported elsewhere.
    """
    from segzoo.backbones.timm import keeps_corners

    try:
        return keeps_corners(arch, output_stride)
    except ConfigError:
        return True
