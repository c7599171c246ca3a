"""Predictions of images in files, with the settings of tools/predict.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from segzoo.distributed import SINGLE_PROCESS, Distributed
from segzoo.inference.outputs.result_files import plan_results
from segzoo.inference.predictor import predict_images
from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol
from segzoo.inference.sources.opening import open_source
from segzoo.registry import settings_of
from segzoo.types import DatasetInfo, PlainDict


def predict_source(
    model: nn.Module,
    info: DatasetInfo,
    out: Path,
    source: Path | str | int,
    protocol: InferenceProtocol = SINGLE_PASS,
    resumed: bool = False,
    distributed: Distributed = SINGLE_PROCESS,
    **settings: Any,
) -> PlainDict:
    """Predict a source on the CPU."""
    settings = {"source": source if isinstance(source, int) else str(source), "device": "cpu"} | settings

    def chosen(function: Any) -> dict[str, Any]:
        return {key: settings.pop(key) for key in settings_of(function) if key in settings}

    files = plan_results(info, out, **chosen(plan_results))
    found = open_source(out, resumed, info.pixels, **chosen(open_source))
    result = predict_images(model, info, found, files, protocol, resumed, distributed, **chosen(predict_images))
    assert not settings, f"unknown settings: {settings}"
    return result
