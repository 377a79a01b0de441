"""Which networks a curve measures, and what it draws."""

from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES

from graphnn import GraphError, Network, NeuronGraph
from graphnn.attribution import AblationCurve, ablate, ablation_curve

# 0 and 1 are inputs, 2 ... 6 hidden, 7 the output: the sum of the hidden values still there.
STAR = NeuronGraph([[0, 0, 1, 1, 1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7, 7, 7, 7, 7]], bias=False)
X = torch.ones(1, 2)


@pytest.fixture
def net():
    return Network(STAR, [1.0, 2.0, 4.0, 8.0, 16.0, 1.0, 1.0, 1.0, 1.0, 1.0])


def output(net):
    with torch.no_grad():
        return net(X)


def test_the_top_goes_first_the_bottom_last(net):
    scores = torch.tensor([99.0, 99.0, 1.0, 5.0, 5.0, 5.0, float("nan"), 99.0])
    curve = ablation_curve(net, scores, output, range(6))
    assert curve.num_ablated == (0, 1, 2, 3, 4, 5)
    # Ties by id, NaN as the lowest; inputs and outputs are never taken.
    assert curve.top.tolist() == [31, 29, 25, 17, 16, 0]
    assert curve.bottom.tolist() == [31, 15, 14, 12, 8, 0]
    assert curve.random.shape == (5, 6)
    assert (curve.random[:, 0] == 31).all()
    assert (curve.random[:, -1] == 0).all()
    assert (curve.random.diff() < 0).all()


def test_random_orders_repeat_with_their_generator(net):
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.zeros(8)
        return ablation_curve(net, scores, output, 6, draws=8, generator=generator).random

    before = torch.random.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert len({tuple(row) for row in draw(1).tolist()}) > 1
    assert torch.equal(before, torch.random.get_rng_state())


def test_chosen_neurons_and_held_values(net):
    scores = torch.arange(8.0)
    curve = ablation_curve(net, scores, output, [1, 2], neurons=[3, 1, 5], value=-1.0, draws=1)
    assert curve.top.tolist() == [31 - 8 - 1, 31 - 8 - 1 - 2 - 1]
    # The input 1 counts three hidden neurons.
    assert curve.bottom.tolist() == [3 - 28, 3 - 28 - 3]
    trace = net.trace(torch.full((3, 2), 0.5))
    curve = ablation_curve(net, scores, output, [0, 5], value=trace, draws=1)
    assert curve.top.tolist() == [31, 15.5]


def test_evenly_spaced_steps(rng):
    net = Network(CASES["dense"](), generator=rng)
    curve = ablation_curve(net, torch.zeros(28), lambda net: 0.0, 5, draws=1)
    assert curve.num_ablated == (0, 4, 8, 12, 16)


def test_measures_what_ablate_makes(rng):
    net = Network(CASES["random"](), generator=rng)
    scores, seen = torch.randn(40, generator=rng), []
    ablation_curve(net, scores, lambda net: seen.append(net.weight.clone()) or 0.0, [3], draws=1)
    hidden = torch.ones(40, dtype=torch.bool)
    hidden[net.graph.input_ids] = hidden[net.graph.output_ids] = False
    top = scores.masked_fill(~hidden, -torch.inf).topk(3).indices
    assert torch.equal(seen[0], ablate(net, top).weight)


def test_the_table_and_the_picture():
    values = torch.tensor([[1.0, 0.5], [1.0, 0.7], [0.8, 0.1]], dtype=torch.float64)
    curve = AblationCurve((0, 4), values[0], values[1], values[1:])
    frame = curve.to_frame()
    assert frame.index.tolist() == [0, 4]
    assert frame["top"].tolist() == [1.0, 0.5]
    np.testing.assert_allclose(frame["random_mean"], [0.9, 0.4])
    assert frame["random_low"].tolist() == [0.8, 0.1]
    assert frame["random_high"].tolist() == [1.0, 0.7]
    from matplotlib.figure import Figure

    figure = curve.plot(label="accuracy")
    (axes,) = figure.axes
    drawn = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
    assert drawn["highest first"] == [1.0, 0.5]
    assert drawn["lowest first"] == [1.0, 0.7]
    np.testing.assert_allclose(drawn["random"], [0.9, 0.4])
    assert axes.get_ylabel() == "accuracy"
    own = Figure().subplots()
    assert curve.plot(own) is own.figure
    assert len(own.lines) == 3


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"scores": torch.zeros(3, 8)}, r"scores must have shape \(8,\).*\(got \(3, 8\)\).*mean"),
        ({"scores": torch.zeros(7)}, r"\(got \(7,\)\)"),
        ({"steps": 1}, r"steps must be in 2 \.\.\. 6, as 5 neurons may be ablated"),
        ({"steps": 7}, r"got 7"),
        ({"steps": [0, 6]}, r"ascending numbers in 0 \.\.\. 5.*\(got \[0, 6\]\)"),
        ({"steps": [2, 1]}, r"\(got \[2, 1\]\)"),
        ({"steps": [1, 1]}, r"\(got \[1, 1\]\)"),
        ({"steps": []}, r"\(got \[\]\)"),
        ({"neurons": [3, 3]}, "neurons must be distinct"),
        ({"draws": 0}, "draws must be an integer of at least 1"),
        ({"evaluate": lambda net: torch.ones(2)}, "evaluate must return a number"),
        ({"evaluate": None}, "evaluate must be a function"),
        ({"value": "mean"}, r"value must be one number, or a Trace \(got str\)"),
        ({"value": [1.0, 2.0]}, r"value must be one number, or a Trace \(got list\)"),
        ({"steps": None}, r"or how many of them \(got None\)"),
        ({"steps": [0.5]}, r"ascending numbers.*\(got \[0.5\]\)"),
        ({"neurons": []}, "at least one neuron that may be ablated"),
    ],
)
def test_what_cannot_be(arguments, match, net):
    given: dict[str, Any] = {"scores": torch.zeros(8), "evaluate": output, "steps": 2}
    with pytest.raises(GraphError, match=match):
        ablation_curve(net, **{**given, **arguments})


def test_a_metric_may_have_a_gradient(net):
    # torch warns where such a tensor is made a number, and warnings are errors here.
    curve = ablation_curve(net, torch.arange(8.0), lambda net: net.weight.sum(), [0])
    assert curve.top.tolist() == pytest.approx([net.weight.sum().item()])
