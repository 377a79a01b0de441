"""Positions and styles: numbers a viewer can draw without thinking."""

import math

import numpy as np
import pytest
import torch

import graphnn
from graphnn.layout import ROLES, SHADE_COLORS, SHADE_WIDTHS, layout, style

BLUE, ORANGE, PALE = [0, 114, 178], [230, 97, 0], [221, 221, 221]


def layered(*sizes):
    starts = np.cumsum([0, *sizes])
    edges = [
        (s, t)
        for i in range(len(sizes) - 1)
        for t in range(starts[i + 1], starts[i + 2])
        for s in range(starts[i], starts[i + 1])
    ]
    return graphnn.NeuronGraph(np.array(edges).T)


def test_levels_are_columns_and_ids_go_down():
    graph = graphnn.NeuronGraph([[4, 4, 1, 3, 4], [1, 3, 0, 0, 0]], num_neurons=5, inputs=[4])
    position = layout(graph)
    x = position[:, 0]
    assert x[4] == 0
    assert x[1] == x[3] == x[2] == 200  # neuron 2 is a constant
    assert x[0] == 400
    assert position[1, 1] > position[2, 1] > position[3, 1]
    assert position[2, 1] == position[4, 1] == position[0, 1] == 0


@pytest.mark.parametrize("sizes", [(1, 1), (3, 7, 2), (1000, 1), (2, 500, 500, 3), (1,) * 60])
def test_columns_are_centred_and_nothing_overlaps(sizes):
    graph = layered(*sizes)
    position, drawn = layout(graph), style(graphnn.Network(graph))
    level = graph.level.numpy()
    assert np.isfinite(position).all()
    for own in range(graph.num_levels):
        y = position[level == own, 1]
        assert y.mean() == pytest.approx(0, abs=1e-6)
        assert (-np.diff(y) >= drawn.sizes[level == own][1:]).all()
    columns = np.unique(position[:, 0])
    assert len(columns) == len(sizes)
    assert len(columns) == 1 or np.diff(columns).min() > 2 * drawn.sizes.max() / 2
    width, height = np.ptp(position, axis=0)
    assert width >= height  # a wide level does not turn the picture into an upright line


def test_a_narrow_level_beside_a_wide_one_is_spread_out():
    graph = layered(784, 10)
    y = layout(graph)[:, 1]
    share = np.ptp(y[784:]) / np.ptp(y[:784])
    assert 0.05 < share < 1


def test_layout_of_one_level_and_of_many_neurons_is_quick():
    assert layout(graphnn.NeuronGraph(np.empty((2, 0), int), num_neurons=1)).tolist() == [[0, 0]]
    n = 200_000
    position = layout(graphnn.NeuronGraph([range(n - 1), range(1, n)]))
    assert position[:, 0].tolist() == [200.0 * i for i in range(n)]


def test_roles_and_their_colours_without_a_trace():
    graph = graphnn.NeuronGraph(
        [[0, 2, 2, 4], [2, 3, 5, 5]], num_neurons=6, inputs=[0, 1], outputs=[3, 1, 2]
    )
    drawn = style(graphnn.Network(graph))
    # 1 is an input and an output, 2 an output and hidden, 5 leads nowhere.
    assert [ROLES[code] for code in drawn.role] == (
        ["input", "input", "output", "output", "constant", "hidden"]
    )
    assert len({tuple(color) for color in drawn.colors.tolist()}) == 4


def test_edges_are_drawn_by_weight():
    graph = graphnn.NeuronGraph([[0, 1, 2, 3, 4], [5, 5, 5, 5, 5]])
    net = graphnn.Network(graph, weight=[2.0, -2.0, 0.0, 0.5, -0.02], bias=[0.0])
    drawn = style(net)
    colors, widths = drawn.edge_colors().tolist(), drawn.edge_widths().tolist()
    assert drawn.scale == 2
    assert colors[:3] == [BLUE, ORANGE, PALE]
    assert widths[:4] == [4.0, 4.0, 0.5, 2.25]
    assert 0.5 < widths[4] < widths[3]
    assert drawn.edge_colors(np.array([1, 0])).tolist() == [ORANGE, BLUE]
    assert drawn.edge_widths(slice(3, 4)).tolist() == [2.25]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_infinity_is_strongest_and_nan_stands_out(dtype):
    graph = graphnn.NeuronGraph([[0, 1, 2, 3], [4, 4, 4, 4]])
    weight = [math.inf, -math.inf, math.nan, 1.0]
    drawn = style(graphnn.Network(graph, weight=weight, bias=[0.0], dtype=dtype))
    assert drawn.edge_colors().tolist() == [BLUE, ORANGE, [0, 0, 0], BLUE]
    alone = style(graphnn.Network(graph, weight=[math.inf, 0.0, 0.0, 0.0], bias=[0.0]))
    assert alone.edge_colors().tolist() == [BLUE, PALE, PALE, PALE]


def test_a_trace_draws_values_and_contributions():
    graph = graphnn.NeuronGraph([[0, 1, 0, 1, 2, 3], [2, 2, 3, 3, 4, 4]])
    net = graphnn.Network(graph, weight=[1.0, 1.0, 1.0, -1.0, 3.0, 3.0], bias=torch.zeros(3))
    trace = net.trace(torch.tensor([[0.0, 0.0], [1.0, 4.0]]))
    drawn = style(net, trace, sample=1)
    # Values: 1, 4 | 5, -3 | 6. Compared within a level.
    assert drawn.colors[[1, 2, 4]].tolist() == [BLUE] * 3
    assert drawn.colors[3, 0] > drawn.colors[3, 2]
    assert drawn.sizes[1] > drawn.sizes[0]
    assert drawn.scale == 15
    assert drawn.edge_strength(slice(None)).tolist() == [1, 4, 1, -4, 15, -9]
    dark = style(net, trace, sample=0)
    assert dark.colors.tolist() == [PALE] * 5
    assert dark.edge_widths().tolist() == [0.5] * 6
    assert style(net, trace, sample=-1).colors.tolist() == drawn.colors.tolist()


def test_the_scale_is_found_beyond_the_first_pieces():
    n = 10_001
    graph = graphnn.NeuronGraph([range(n), [n] * n])
    weight = torch.ones(n)
    weight[-1] = -7
    assert style(graphnn.Network(graph, weight=weight, bias=[0.0])).scale == 7


def test_the_shades_grow_from_zero_both_ways():
    assert SHADE_COLORS.shape == (130, 3)
    assert (np.diff(SHADE_WIDTHS[:65]) < 0).all()
    assert (np.diff(SHADE_WIDTHS[64:129]) > 0).all()


def test_refusals():
    graph = graphnn.NeuronGraph([[0], [1]])
    net = graphnn.Network(graph)
    trace = net.trace(torch.ones(2, 3, 1))
    other = graphnn.Network(graphnn.NeuronGraph([[0, 1], [2, 2]])).trace(torch.ones(1, 2))
    with pytest.raises(
        graphnn.GraphError, match=r"trace must be of this network's graph.*3 neurons"
    ):
        style(net, other)
    with pytest.raises(graphnn.GraphError, match=r"sample must be in 0 \.\.\. 5 \(got 6\)"):
        style(net, trace, sample=6)
    with pytest.raises(graphnn.GraphError, match=r"at least one sample"):
        style(net, net.trace(torch.ones(0, 1)))
    with pytest.raises(graphnn.GraphError, match=r"sample must be an integer \(got 1.0\)"):
        style(net, trace, sample=1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        graphnn.GraphError, match=r"trace must be what net\.trace\(x\) returns.*Tensor"
    ):
        style(net, torch.ones(1, 2))  # pyright: ignore[reportArgumentType]
