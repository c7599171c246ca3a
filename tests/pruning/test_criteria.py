"""Values of the criteria, computed by hand on two convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segzoo.layers.channel_widths import set_channel_widths_
from segzoo.pruning.dependency_graph import trace_channels
from segzoo.pruning.selection import channel_importance, select_channels
from segzoo.pruning.sensitivity import scan_sensitivity
from segzoo.registry import PRUNERS


class TwoConvs(nn.Module):
    """Filters of the first convolution: one large value, or several small ones."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.score = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[2.5, 0, 0], [1, 1, 1], [2, 0, 0], [0.1, 0, 0]]).view(4, 3, 1, 1))
            self.second.weight.copy_(torch.diag(torch.tensor([4.0, 3, 2, 1])).view(4, 4, 1, 1))

    def forward(self, x):
        return (self.score(self.second(self.first(x))),)


def ranked(name: str) -> list[float]:
    """Importance of the filters of the first convolution."""
    model = TwoConvs()
    ranking = PRUNERS.build(name, allocation="uniform").ranking(model, None)
    producer = next(p for p in ranking.graph.producers if p.name == "first.weight")
    return [ranking.importance[channel] for channel in ranking.graph.dims[producer]]


def test_l1_adds_magnitudes_and_l2_squares():
    assert ranked("l1") == pytest.approx([2.5, 3, 2, 0.1])
    assert ranked("l2") == pytest.approx([2.5, 3**0.5, 2, 0.1])


def test_a_scan_masks_the_least_important_channels():
    model = TwoConvs()
    graph = trace_channels(model)
    importance = channel_importance(graph, lambda producer: model.get_parameter(producer.name).abs().sum((1, 2, 3)))
    curves = scan_sensitivity(
        model, graph, importance, lambda: float(model.first.weight.detach().abs().sum()), exclude=("score", "second")
    )
    assert [curve.layers for curve in curves] == [("first",)]
    assert curves[0].losses == pytest.approx({1.0: 7.6, 0.75: 7.5, 0.5: 5.5, 0.25: 3.0}), "0.1, then 2, then 2.5 are masked"


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_a_global_budget_does_not_depend_on_the_scale_of_a_layer(scale):
    model = TwoConvs()
    with torch.no_grad():
        model.second.weight.mul_(scale)
    graph = trace_channels(model)
    importance = channel_importance(graph, lambda producer: model.get_parameter(producer.name).abs().sum((1, 2, 3)))
    removed = select_channels(graph, importance, 0.5, allocation="global")
    kept = {
        producer.name: [index for index, channel in enumerate(graph.dims[producer]) if channel not in removed]
        for producer in graph.producers
    }
    assert kept["first.weight"] == [0, 1] and kept["second.weight"] == [0, 1], (
        "2.5 and 3 of a mean of 1.9; 4 and 3 of a mean of 2.5"
    )


@pytest.mark.parametrize("keep_ratio, kept", [(1.0, 4), (0.75, 3), (0.5, 3)])
def test_rounding_keeps_whole_layers_whole(keep_ratio, kept):
    graph = trace_channels(TwoConvs())
    importance = {channel: 1.0 for group in graph.groups for channel in group}
    removed = select_channels(graph, importance, keep_ratio, round_to=3)
    assert [len(set(group) - removed) for group in graph.groups] == [kept, kept]


def test_loaded_weights_are_aligned_copies():
    """Unaligned weights of a file would change the last bit of a score on some CPUs."""
    model = nn.Conv2d(2, 4, 3)
    file = torch.arange(1 + 4 * 2 * 9 + 4, dtype=torch.float32)
    state = {"weight": file[1:73].view(4, 2, 3, 3), "bias": file[73:]}
    set_channel_widths_(model, state)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state[name]) and parameter.data_ptr() % 64 == 0


def test_buffers_that_no_state_dict_has_are_left_alone():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 3))
    model.register_buffer("window", torch.ones(3), persistent=False)
    narrow = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 3))
    assert set_channel_widths_(model, narrow.state_dict()) == {"0": 3}
    assert model[0].out_channels == model[1].in_channels == 3 and torch.equal(model.get_buffer("window"), torch.ones(3))
