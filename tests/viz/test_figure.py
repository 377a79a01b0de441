"""Figures of networks: what is chosen, where it stands, what it says, what is refused."""

import itertools
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch

import graphnn
from graphnn.cli import main

# Figures have attributes that no type checker knows.
viz: Any = graphnn.viz

BLUE, ORANGE = "#0072b2", "#e66100"


def layered(*sizes, rng=None, **more):
    starts = np.cumsum([0, *sizes])
    blocks = [
        torch.cartesian_prod(torch.arange(*starts[i : i + 2]), torch.arange(*starts[i + 1 : i + 3]))
        for i in range(len(sizes) - 1)
    ]
    graph = graphnn.NeuronGraph(torch.cat(blocks).t(), **more)
    return graphnn.Network(graph, backend="reference", generator=rng)


def edges_in(figure):
    return sorted({int(row[0]) for row in figure.data[0].customdata})


def drawn_paths(figure):
    return "".join(shape.path for shape in figure.layout.shapes)


def markers(figure):
    return [own for own in figure.data if own.type == "scatter" and own.mode == "markers"]


def test_the_strongest_edges_are_kept_and_the_rest_is_counted(rng):
    net = layered(200, 150, 5, rng=rng)
    trace = net.trace(torch.randn(6, 200, generator=rng))
    figure = viz.draw(net, trace, sample=4, max_edges=30)
    assert edges_in(figure) == sorted(trace.top_edges(30, sample=4).tolist())
    assert drawn_paths(figure).count("M") == 30
    shown = sum(len(own.x) for own in markers(figure))
    assert figure.layout.title.text == (
        f"The 30 edges of largest |contribution|. Left out: {net.graph.num_edges - 30:,} edges and "
        f"{355 - shown} neurons of {net.graph.num_edges:,} and 355. "
        "Sample 4 of 6."
    )
    by_weight = viz.draw(net, trace, max_edges=30, by="weight")
    assert edges_in(by_weight) == sorted(trace.top_edges(30, by="weight").tolist())
    assert edges_in(viz.draw(net, max_edges=30)) == edges_in(by_weight)


def test_neurons_of_wide_levels_are_shown_where_an_edge_is(rng):
    net = layered(200, 150, 5, rng=rng)
    figure = viz.draw(net, max_edges=30)
    ends = set(net.graph.edge_index[:, edges_in(figure)].flatten().tolist())
    shown = {
        int(row[0].removeprefix("neuron ")) for own in markers(figure) for row in own.customdata
    }
    assert shown == ends | set(range(350, 355))


def test_scores_choose_and_colour(rng):
    net = layered(4, 3, rng=rng)
    scores = torch.zeros(12)
    scores[[2, 5, 7]] = torch.tensor([3.0, -3.0, 0.01])
    figure = viz.draw(net, by=scores, threshold=0.1)
    assert edges_in(figure) == [2, 5]
    assert {shape.line.color for shape in figure.layout.shapes} == {BLUE, ORANGE}
    assert "of largest |score| of at least 0.1" in figure.layout.title.text
    trace = net.trace(torch.randn(2, 4, generator=rng))
    per_sample = torch.stack([scores, scores.flip(0)])
    assert edges_in(viz.draw(net, trace, 1, by=per_sample, max_edges=2)) == [6, 9]
    assert edges_in(viz.draw(net, trace, 0, by=per_sample, max_edges=2)) == [2, 5]


def test_blue_is_positive_and_width_grows_with_the_magnitude():
    graph = graphnn.NeuronGraph([[0, 1, 2, 3], [4, 4, 4, 4]])
    net = graphnn.Network(graph, weight=[4.0, -4.0, 1.0, -1.0])
    lines = [(shape.line.color, shape.line.width) for shape in viz.draw(net).layout.shapes]
    assert lines[-1] in ((BLUE, 4.0), (ORANGE, 4.0))
    assert {lines[-1], lines[-2]} == {(BLUE, 4.0), (ORANGE, 4.0)}
    assert lines[0][1] == lines[1][1] < 4.0


def test_the_signs_take_turns_in_being_on_top(rng):
    net = layered(60, 50)
    with torch.no_grad():
        net.weight.copy_(torch.rand(3000, generator=rng).sub_(0.5).sign_())
    shapes = viz.draw(net, max_edges=3000).layout.shapes
    counts = np.array([own.path.count("M") for own in shapes])
    blue = np.array([own.line.color == BLUE for own in shapes])
    assert counts.sum() == 3000
    assert len(shapes) < 60
    # Of the topmost edges, however many, about as many are of one sign as of the other.
    lead = np.cumsum(np.where(blue, counts, -counts)[::-1])
    assert abs(lead).max() < 200
    assert blue[::-1][:4].tolist() in ([True, False, False, True], [False, True, True, False])


def test_stronger_edges_of_either_sign_are_on_top(rng):
    net = layered(60, 50)
    with torch.no_grad():
        net.weight.copy_(torch.randn(3000, generator=rng))
    figure = viz.draw(net, max_edges=3000)
    widths = [own.line.width for own in figure.layout.shapes]
    assert widths == sorted(widths)
    assert drawn_paths(figure).count("M") == 3000


def test_no_two_neurons_overlap_and_levels_go_to_the_right(rng):
    for sizes in ((1, 1), (3, 100, 2), (700, 9, 1), (100, 30, 30, 100)):
        net = layered(*sizes, rng=rng)
        figure = viz.draw(net, max_edges=net.graph.num_edges)
        x, y, size, level = (
            np.concatenate([own(one) for one in markers(figure)])
            for own in (
                lambda one: one.x,
                lambda one: one.y,
                lambda one: one.marker.size,
                lambda one: [row[1] for row in one.customdata],
            )
        )
        assert x.size == sum(sizes)
        near = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(x.size)
        assert (near.min(0) >= size).all()
        bounds = [(x[level == own].min(), x[level == own].max()) for own in range(len(sizes))]
        assert all(a[1] < b[0] for a, b in itertools.pairwise(bounds))
        low, high = figure.layout.yaxis.range
        assert low < y.min()
        assert y.max() < high


def test_a_skip_edge_goes_around_the_neuron_between():
    net = graphnn.from_edges([("x", "h", 2.0), ("h", "y", 3.0), ("x", "y", -1.0)])
    paths = drawn_paths(viz.draw(net))
    assert (paths.count("L"), paths.count("Q")) == (2, 1)
    hovered = np.array(viz.draw(net).data[0].y)
    assert len(set(hovered.round(3))) > 3


def test_points_to_hover_lie_on_their_edges_and_differ(rng):
    net = layered(30, 30, rng=rng)
    figure = viz.draw(net)
    own = figure.data[0]
    assert len(set(zip(own.x, own.y, strict=True))) == len(own.x)
    place = {
        row[0]: (x, y)
        for one in markers(figure)
        for x, y, row in zip(one.x, one.y, one.customdata, strict=True)
    }
    for x, y, row in list(zip(own.x, own.y, own.customdata, strict=True))[::97]:
        (x0, y0), (x1, y1) = place[row[1]], place[row[2]]
        assert x0 < x < x1
        assert y == pytest.approx(y0 + (y1 - y0) * (x - x0) / (x1 - x0), abs=1e-6)


def test_input_groups_that_are_images(rng):
    graph = graphnn.NeuronGraph(
        [range(11), [11] * 11], inputs={"image": [8, *range(8)], "more": [9, 10]}
    )
    net = graphnn.Network(graph, backend="reference", generator=rng)
    trace = net.trace(torch.arange(9.0)[None], torch.ones(1, 2))
    figure = viz.draw(net, trace, image_shape={"image": (3, 3)})
    image = figure.data[1]
    assert np.array(image.z).tolist() == torch.arange(9.0).reshape(3, 3).tolist()
    assert image.customdata[0][0][0] == "neuron 8"
    assert np.diff(image.y).max() < 0  # the first row is on top
    assert sum(len(own.x) for own in markers(figure)) == 3
    with pytest.raises(graphnn.GraphError, match="must be a dict of input group"):
        viz.draw(net, image_shape=(3, 3))
    with pytest.raises(graphnn.GraphError, match=r"that 2 neurons, .*'more', fill"):
        viz.draw(net, image_shape={"more": (3, 3)})
    with pytest.raises(graphnn.GraphError, match=r"must name input groups.*got 'nose'"):
        viz.draw(net, image_shape={"nose": (3, 3)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(rng, dtype):
    net = layered(3, 2, rng=rng).to(dtype)
    trace = net.trace(torch.ones(2, 3, dtype=dtype))
    weight = {row[0]: row[3] for row in viz.draw(net, trace).data[0].customdata}
    assert [weight[edge] for edge in range(6)] == net.weight.tolist()


def test_degenerate_networks():
    alone = graphnn.Network(graphnn.NeuronGraph([[], []], num_neurons=3))
    assert viz.draw(alone).layout.title.text.startswith("All 0 edges")
    dead = graphnn.Network(graphnn.NeuronGraph([[0], [1]]), weight=[0.0])
    assert drawn_paths(viz.draw(dead, dead.trace(torch.zeros(1, 1)))).count("M") == 1
    assert drawn_paths(viz.draw(dead, max_edges=0)) == ""
    chain = layered(*[1] * 600)
    figure = viz.draw(chain)
    assert drawn_paths(figure).count("M") == 599
    assert len(figure.layout.xaxis.tickvals) < 20
    x = figure.data[2].x
    assert min(np.diff(x)) > 0


def test_a_million_edges_are_thinned():
    net = layered(1000, 1000)
    figure = viz.draw(net, max_edges=500)
    assert drawn_paths(figure).count("M") == 500
    assert "Left out: 999,500 edges" in figure.layout.title.text
    assert len(figure.to_json()) < 2_000_000


def test_neurons_of_wide_levels_are_squares_of_few_paths(rng):
    net = layered(6000, 1, rng=rng)
    trace = net.trace(torch.randn(1, 6000, generator=rng))
    for given, colors in ((None, {"#009e73", "#cc79a7"}), (trace, None)):
        figure = viz.draw(net, given, max_edges=6000)
        assert markers(figure) == [] or given is None
        squares = [own for own in figure.layout.shapes if own.fillcolor]
        assert drawn_paths(figure).count("M") == 6000 + 6001
        assert "".join(own.path for own in squares).count("Z") == 6001
        assert colors is None or {own.fillcolor for own in squares} == colors
        assert len(figure.layout.shapes) < 360
        hovered = [row[0] for own in figure.data[1:3] for row in own.customdata]
        assert hovered == [f"neuron {neuron}" for neuron in range(6001)]
    strongest = int(trace.values[0, :6000].abs().argmax())
    sign = trace.values[0, strongest] > 0
    (path,) = (
        own.path
        for own in squares
        if own.fillcolor == (BLUE if sign else ORANGE) and own.path.count("M") < 50
    )
    x, y = figure.data[1].x[strongest], figure.data[1].y[strongest]
    corners = [
        tuple(map(float, start.split(","))) for start in re.findall(r"M([-\d.]+,[-\d.]+)H", path)
    ]
    assert min(abs(left - x) + abs(low - y) for left, low in corners) < 10


def test_names_never_become_markup():
    net = graphnn.from_edges([("<b>x</b>", "$y$ & <script>", 1.0)])
    figure = viz.draw(net)
    source, target = figure.data[0].customdata[0][1:3]
    assert source == "&lt;b&gt;x&lt;/b&gt; (neuron 0)"
    assert target == "&#36;y&#36; &amp; &lt;script&gt; (neuron 1)"
    assert not re.search("<script|<b>x|[$]", figure.to_json().replace("\\u003c", "<"))


def test_refusals(rng):
    net = layered(3, 2, rng=rng)
    trace = net.trace(torch.randn(5, 3, generator=rng))
    with pytest.raises(graphnn.GraphError, match=r"sample must be in 0 \.\.\. 4 \(got 5\)"):
        viz.draw(net, trace, sample=5)
    with pytest.raises(graphnn.GraphError, match="must be of this network's graph"):
        viz.draw(layered(2, 2), trace)
    with pytest.raises(graphnn.GraphError, match="at least one sample"):
        viz.draw(net, net.trace(torch.ones(0, 3)))
    with pytest.raises(graphnn.GraphError, match=r"sample must be 0 where no trace is given"):
        viz.draw(net, sample=1)
    with pytest.raises(graphnn.GraphError, match=r"max_edges must be an integer.*got -1"):
        viz.draw(net, max_edges=-1)
    with pytest.raises(graphnn.GraphError, match=r"threshold must be a finite.*got nan"):
        viz.draw(net, threshold=float("nan"))
    with pytest.raises(graphnn.GraphError, match=r"real numbers \(got Tensor of torch.bool\)"):
        viz.draw(net, by=torch.ones(6, dtype=torch.bool))
    with pytest.raises(graphnn.GraphError, match=r"real numbers \(got ndarray of <U1\)"):
        viz.draw(net, by=np.array(["a"] * 6))
    with pytest.raises(graphnn.GraphError, match=r"net must be a graphnn.Network"):
        viz.draw(net.graph)
    with pytest.raises(graphnn.GraphError, match=r"by must be.*got 'size'"):
        viz.draw(net, by="size")
    with pytest.raises(graphnn.GraphError, match="by 'contribution' needs a trace"):
        viz.draw(net, by="contribution")
    with pytest.raises(graphnn.GraphError, match=r"shape \(6,\) or \(5, 6\) \(got \(4, 6\)\)"):
        viz.draw(net, trace, by=torch.ones(4, 6))


def test_without_plotly_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    path = tmp_path / "e.csv"
    path.write_text("source,target,weight\na,b,1\n")
    assert main(["draw", str(path), "-o", str(tmp_path / "e.html")]) == 2
    told = capsys.readouterr().err
    assert "pip install 'graphnn[viz]'" in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]
