"""Pictures for papers: files that programs open, and numbers that add up."""

import sys
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest
import torch

import graphnn

# Figures have attributes that no type checker knows.
viz: Any = graphnn.viz


@pytest.fixture
def net(rng):
    graph = graphnn.NeuronGraph(
        [[0, 1, 2, 0, 3, 4, 1], [3, 3, 4, 4, 5, 5, 5]],
        names=["$x$", "<b>", "c_1^2", "h{", "}", "y"],
        activation=["identity"] * 3 + ["relu"] * 3,
    )
    return graphnn.Network(graph, backend="reference", generator=rng)


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_a_network_is_written(net, tmp_path, rng, suffix):
    path = tmp_path / f"net.{suffix}"
    viz.plot_network(net, net.trace(torch.randn(3, 3, generator=rng)), sample=1).savefig(path)
    start = path.read_bytes()[:8]
    assert start.startswith({"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[suffix])
    if suffix == "svg":
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_the_network_has_the_edges_and_colours_of_draw(net, rng):
    trace = net.trace(torch.randn(3, 3, generator=rng))
    axes = viz.plot_network(net, trace, sample=2, max_edges=5).axes[0]
    lines, *neurons = axes.collections
    shapes = viz.draw(net, trace, sample=2, max_edges=5).layout.shapes
    assert len(lines.get_segments()) == 5 == "".join(own.path for own in shapes).count("M")
    colors = {tuple(np.rint(255 * color[:3]).astype(int)) for color in lines.get_colors()}
    assert colors == {tuple(bytes.fromhex(own.line.color[1:])) for own in shapes}
    assert sum(len(own.get_offsets()) for own in neurons) == 6


def test_an_image_stands_as_one(rng):
    net = graphnn.Network(graphnn.NeuronGraph([range(6), [6] * 6]), backend="reference")
    trace = net.trace(torch.arange(6.0)[None])
    (image,) = viz.plot_network(net, trace, image_shape=(2, 3)).axes[0].images
    assert image.get_array().tolist() == [[0, 1, 2], [3, 4, 5]]
    left, right, bottom, top = image.get_extent()
    assert (right - left) / (top - bottom) == pytest.approx(1.5)


def test_histograms_count_every_weight_and_value(net, rng):
    trace = net.trace(torch.randn(50, 3, generator=rng))
    weights, values = viz.plot_weights(net), viz.plot_activations(trace)
    counted = [sum(bar.get_height() for bar in axes.patches) for axes in weights.axes]
    assert counted == [4, 3]
    counted = [sum(bar.get_height() for bar in axes.patches) for axes in values.axes]
    assert counted == [150, 100, 50]


def test_numbers_that_are_not_finite_are_counted():
    graph = graphnn.NeuronGraph([[0, 1, 2], [3, 3, 3]])
    net = graphnn.Network(graph, weight=[float("nan"), float("inf"), 1.0])
    assert "2 not finite" in viz.plot_weights(net).axes[0].get_title()


def test_deep_networks_show_some_levels():
    chain = graphnn.NeuronGraph([range(100), range(1, 101)])
    titles = [axes.get_title() for axes in viz.plot_weights(graphnn.Network(chain)).axes]
    assert len(titles) <= 12
    assert titles[0].startswith("level 1:")
    assert titles[-1].startswith("level 100:")


def test_degrees(net):
    into, out = viz.plot_degrees(net.graph).axes
    heights = [[bar.get_height() for bar in axes.patches] for axes in (into, out)]
    assert heights == [[3, 0, 2, 1], [1, 3, 2]]


def test_sparsity_is_a_point_an_edge(net):
    axes = viz.plot_sparsity(net.graph, 2).axes[0]
    (points,) = axes.lines
    assert sorted(zip(*points.get_data(), strict=True)) == [(0, 0), (1, 0), (2, 0)]
    assert axes.get_title() == "level 2: 3 edges, 100 % of 3 sources by 1 targets"


def test_too_many_points_are_thinned_and_said():
    graph = graphnn.NeuronGraph(
        torch.cartesian_prod(torch.arange(600), torch.arange(600, 1200)).t()
    )
    axes = viz.plot_sparsity(graph, 1).axes[0]
    shown = len(axes.lines[0].get_xdata())
    assert shown <= 200_000
    assert f"{shown:,} of them shown" in axes.get_title()


def test_refusals(net):
    for plot in (viz.plot_degrees, lambda own: viz.plot_sparsity(own, 1)):
        with pytest.raises(graphnn.GraphError, match=r"graph must be.*\(got Network\).*net\.graph"):
            plot(net)
    with pytest.raises(graphnn.GraphError, match=r"net must be.*\(got NeuronGraph\)"):
        viz.plot_weights(net.graph)
    with pytest.raises(graphnn.GraphError, match=r"trace must be what net\.trace"):
        viz.plot_activations(net)
    for level in (0, 3, -1):
        with pytest.raises(graphnn.GraphError, match="level must be"):
            viz.plot_sparsity(net.graph, level)
    with pytest.raises(graphnn.GraphError, match="at least one sample"):
        viz.plot_activations(net.trace(torch.empty(0, 3)))
    with pytest.raises(graphnn.GraphError, match="sample must be in"):
        viz.plot_network(net, net.trace(torch.ones(1, 3)), sample=4)


def test_no_window_system_is_chosen(net, monkeypatch):
    # Importing it fails from here on.
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for figure in (viz.plot_degrees(net.graph), viz.plot_network(net), viz.plot_weights(net)):
        assert figure.canvas.manager is None
