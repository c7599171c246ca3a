"""Columns that an evaluation fills in a sweep."""

from __future__ import annotations

import pytest

from segzoo.api import create_model
from segzoo.layers.parameters import count_parameters
from tools.eval import _table_columns


@pytest.mark.parametrize("name", ["icnet", "pspnet"])
def test_an_evaluation_fills_the_columns_of_a_sweep(name):
    model = create_model(name, backbone={"name": "resnet50", "width": 0.125}, num_classes=3)
    meta = {"config": {"model": {"name": name}, "backbone": {"name": "resnet50"}}}
    columns = _table_columns(model, "parts", meta)
    assert columns.pop("receptive_field") == "image"
    assert columns == {"model": name, "backbone": "resnet50", "data": "parts", "params": count_parameters(model)}
