"""Traces: states, triplets in every form, contributions, the strongest edges."""

# A gradient is None before the backward pass, a parametrization is a module that looks like a
# tensor to the type checker, and wrong types are given on purpose.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIndexIssue=false, reportOptionalIterable=false

import itertools
import math

import pytest
import torch
from cases import ON_CPU
from torch import nn

import graphnn

# Two inputs, a hidden pair, a skip connection from input 0 to output 4, shuffled ids and edges.
EDGES = [[2, 0, 3, 1, 0, 1], [4, 2, 4, 2, 4, 3]]


def skip_graph(**options):
    options = {"activation": ["identity", "identity", "tanh", "relu", "sigmoid"], **options}
    return graphnn.NeuronGraph(EDGES, **options)


@pytest.fixture
def net(rng):
    return graphnn.Network(skip_graph(), dtype=torch.float64, generator=rng)


@pytest.fixture
def x(rng):
    return torch.randn(7, 2, generator=rng, dtype=torch.float64)


def by_hand(trace, edges, target="value"):
    """(B, len(edges), 3), one number after the other."""
    source, at = trace.graph.edge_index.tolist()
    end = trace.values if target == "value" else trace.preactivations
    rows = [
        [[v[source[e]].item(), trace.weight[e].item(), t[at[e]].item()] for e in edges]
        for v, t in zip(trace.values, end, strict=True)
    ]
    return torch.tensor(rows, dtype=trace.values.dtype).reshape(len(rows), len(edges), 3)


def test_states(net, x):
    trace = net.trace(x)
    w, b = net.weight.detach(), net.bias.detach()
    h2 = b[0] + w[1] * x[:, 0] + w[3] * x[:, 1]
    h3 = b[1] + w[5] * x[:, 1]
    out = b[2] + w[0] * h2.tanh() + w[2] * h3.relu() + w[4] * x[:, 0]
    pres = torch.stack([x[:, 0], x[:, 1], h2, h3, out], 1)
    values = torch.stack([x[:, 0], x[:, 1], h2.tanh(), h3.relu(), out.sigmoid()], 1)
    torch.testing.assert_close(trace.preactivations, pres)
    torch.testing.assert_close(trace.values, values)
    torch.testing.assert_close(trace.outputs, values[:, 4:])
    assert torch.equal(trace.outputs, net(x))
    assert trace.graph is net.graph


def test_the_weight_is_as_it_was_at_the_call(net, x):
    trace = net.trace(x)
    before = net.weight.detach().clone()
    with torch.no_grad():
        net.weight.mul_(2)
    assert torch.equal(trace.weight, before)


def test_outputs_share_no_memory_with_the_states(net, x):
    with torch.no_grad():
        trace = net.trace(x)
        kept = trace.values.clone()
        trace.outputs.fill_(9)
        trace.preactivations.fill_(9)
    assert torch.equal(trace.values, kept)
    assert torch.equal(trace.values[:, :2], x)
    trace.values.fill_(9)
    assert not x.eq(9).any()


def test_outputs_come_after_the_output_transform(x):
    graph = skip_graph(outputs={"a": [4, 2], "b": [3]})
    trace = graphnn.Network(graph, output_transform="softmax", dtype=torch.float64).trace(x)
    torch.testing.assert_close(trace.outputs.a, trace.values[:, [4, 2]].softmax(-1))
    assert trace.outputs.b.eq(1).all()


@pytest.mark.parametrize("target", ["value", "preactivation"])
def test_triplets(net, x, target):
    with torch.no_grad():
        trace = net.trace(x)
    levels = trace.triplets(target)
    assert [level.shape for level in levels] == [(7, 3, 3), (7, 3, 3)]
    for index, level in enumerate(levels, start=1):
        edges = net.graph.edges_of_level(index).tolist()
        assert torch.equal(level, by_hand(trace, edges, target))
    assert torch.equal(trace.triplets_of([5, 0, 0], target), by_hand(trace, [5, 0, 0], target))


def test_triplets_of_a_converted_linear_are_the_dense_grid(rng):
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    x = torch.randn(6, 4, generator=rng)
    first, second = graphnn.from_sequential(model).trace(x).triplets("preactivation")
    linear, hidden = model[2], model[1](model[0](x))
    grid = second.view(6, 3, 5, 3)
    assert torch.equal(grid[..., 0], hidden[:, None, :].expand(6, 3, 5))
    assert torch.equal(grid[..., 1], linear.weight.expand(6, 3, 5))
    torch.testing.assert_close(grid[..., 2], linear(hidden)[:, :, None].expand(6, 3, 5))
    assert first.view(6, 5, 4, 3)[2, 3, 1, 0] == x[2, 1]


@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (0,), (2, 0), (1, 1, 4)])
def test_leading_dimensions(net, rng, leading):
    x = torch.randn(*leading, 2, generator=rng, dtype=torch.float64)
    trace = net.trace(x)
    flat = net.trace(x.reshape(-1, 2))
    assert trace.values.shape == (*leading, 5)
    assert trace.preactivations.shape == (*leading, 5)
    assert trace.outputs.shape == (*leading, 1)
    for level, expected in zip(trace.triplets(), flat.triplets(), strict=True):
        assert level.shape == (*leading, 3, 3)
        assert torch.equal(level.reshape(expected.shape), expected)
    assert trace.triplets_of([]).shape == (*leading, 0, 3)
    assert trace.contributions().shape == (*leading, 6)
    assert trace.contributions([1, 1]).shape == (*leading, 2)
    pieces = list(trace.iter_triplets(4))
    assert [piece.shape for _, piece in pieces] == [(*leading, 4, 3), (*leading, 2, 3)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 6, 100])
def test_iter_triplets_is_triplets_cut_anew(net, x, chunk):
    trace = net.trace(x)
    pieces = list(trace.iter_triplets(chunk, target="preactivation"))
    ids = torch.cat([ids for ids, _ in pieces])
    levels = range(1, net.graph.num_levels)
    assert torch.equal(ids, torch.cat([net.graph.edges_of_level(level) for level in levels]))
    assert all(ids.numel() == chunk for ids, _ in pieces[:-1])
    joined = torch.cat([piece for _, piece in pieces], 1)
    assert torch.equal(joined, torch.cat(trace.triplets("preactivation"), 1))


def test_iter_triplets_never_holds_more_than_a_piece():
    # 400 x 500 edges and 50 samples: all triplets together would be 120 MB.
    graph = graphnn.from_sequential(nn.Sequential(nn.Linear(400, 500))).graph
    trace = graphnn.Network(graph).trace(torch.ones(50, 400))
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        for ids, piece in itertools.islice(trace.iter_triplets(1000), 20):
            assert piece.shape == (50, ids.numel(), 3)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 0 < largest <= 50 * 1000 * 3 * 4
    assert sum(ids.numel() for ids, _ in trace.iter_triplets()) == 200_000


def test_top_edges_builds_no_edge_by_sample_tensor():
    graph = graphnn.from_sequential(nn.Sequential(nn.Linear(400, 500))).graph
    trace = graphnn.Network(graph).trace(torch.ones(50, 400))
    with torch.profiler.profile(profile_memory=True) as profile:
        trace.top_edges(10)
    # In units of the (E,) scores, whose magnitudes and NaN replacements are tensors of their own.
    assert 0 < max(event.cpu_memory_usage for event in profile.events()) <= 2 * 4 * 200_000


def test_large_triplets_over_several_threads_agree():
    graph = graphnn.from_sequential(nn.Sequential(nn.Linear(300, 301))).graph
    trace = graphnn.Network(graph).trace(torch.rand(16, 300))
    (level,) = trace.triplets()
    source, target = graph.edge_index
    assert torch.equal(level[..., 0], trace.values[:, source])
    assert torch.equal(level[..., 1], trace.weight.expand(16, -1))
    assert torch.equal(level[..., 2], trace.values[:, target])


def test_contributions(net, x):
    trace = net.trace(x)
    expected = trace.values[:, EDGES[0]] * net.weight
    assert torch.equal(trace.contributions(), expected)
    for edges in ([3, 0, 3], torch.tensor([3, 0, 3], dtype=torch.uint8), range(3, -1, -3)):
        ids = [int(edge) for edge in edges]
        assert torch.equal(trace.contributions(edges), expected[:, ids])
    summed = torch.zeros(7, 5, dtype=torch.float64).index_add(1, torch.tensor(EDGES[1]), expected)
    with_bias = summed[:, 2:] + net.bias
    torch.testing.assert_close(trace.preactivations[:, 2:], with_bias)


def ranked(score, k):
    """By descending magnitude, ties by id."""
    return sorted(range(len(score)), key=lambda edge: (-abs(score[edge]), edge))[:k]


@pytest.mark.parametrize("k", [0, 1, 3, 6, 50])
def test_top_edges(net, x, k):
    trace = net.trace(x)
    mean = trace.contributions().mean(0).tolist()
    assert trace.top_edges(k).tolist() == ranked(mean, k)
    assert trace.top_edges(k, by="weight").tolist() == ranked(net.weight.tolist(), k)
    for sample in (0, 6, -1):
        own = trace.contributions()[sample].tolist()
        assert trace.top_edges(k, sample=sample).tolist() == ranked(own, k)


@pytest.mark.parametrize("k", range(1, 9))
def test_top_edges_breaks_ties_by_id(k):
    graph = graphnn.NeuronGraph([range(8), [8] * 8])
    weight = [1.0, -2.0, 2.0, 1.0, -1.0, 2.0, 0.0, -0.0]
    trace = graphnn.Network(graph, weight).trace(torch.ones(3, 8))
    assert trace.top_edges(k).tolist() == [1, 2, 5, 0, 3, 4, 6, 7][:k]
    assert trace.top_edges(k, by="weight").tolist() == [1, 2, 5, 0, 3, 4, 6, 7][:k]


def test_top_edges_of_opposite_samples_cancel():
    net = graphnn.Network(graphnn.NeuronGraph([[0, 1], [2, 2]]), [1.0, 0.5])
    trace = net.trace(torch.tensor([[4.0, 1.0], [-4.0, 1.0]]))
    assert trace.top_edges(2).tolist() == [1, 0]
    assert trace.top_edges(2, sample=1).tolist() == [0, 1]


def test_top_edges_with_nan_and_infinity():
    graph = graphnn.NeuronGraph([range(5), [5] * 5])
    trace = graphnn.Network(graph, [1.0, math.nan, 9.0, -math.inf, 3.0]).trace(torch.ones(2, 5))
    assert trace.top_edges(4).tolist() == [1, 3, 2, 4]


def test_top_edges_counts_samples_over_leading_dimensions(net, x):
    trace = net.trace(x[:6].reshape(2, 3, 2))
    flat = net.trace(x[:6])
    for sample in range(6):
        assert torch.equal(trace.top_edges(6, sample=sample), flat.top_edges(6, sample=sample))
    assert torch.equal(trace.top_edges(6), flat.top_edges(6))
    assert net.trace(x[0]).top_edges(6).tolist() == flat.top_edges(6, sample=0).tolist()


@pytest.mark.parametrize("names", [None, ["a", "b", ("c", 1), 3, "e"]])
def test_to_frame(rng, x, names):
    net = graphnn.Network(skip_graph(names=names), dtype=torch.float64, generator=rng)
    trace = net.trace(x)
    frame = trace.to_frame(sample=2)
    label = (lambda ids: [names[i] for i in ids]) if names else list
    assert list(frame.columns) == [
        "source", "target", "level", "source_value", "weight", "target_value",
        "target_preactivation", "contribution",
    ]  # fmt: skip
    assert (frame.index.name, list(frame.index)) == ("edge", list(range(6)))
    assert list(frame["source"]) == label(EDGES[0])
    assert list(frame["target"]) == label(EDGES[1])
    assert list(frame["level"]) == [2, 1, 2, 1, 2, 1]
    triplets = trace.triplets_of(range(6))[2].tolist()
    columns = ["source_value", "weight", "target_value"]
    assert frame[columns].to_numpy().tolist() == triplets
    pres = trace.preactivations[2, EDGES[1]].tolist()
    assert frame["target_preactivation"].tolist() == pres
    assert frame["contribution"].tolist() == trace.contributions()[2].tolist()
    some = trace.to_frame(sample=2, edges=[4, 1])
    assert list(some.index) == [4, 1]
    assert some["weight"].tolist() == net.weight[[4, 1]].tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    net = graphnn.Network(skip_graph(), dtype=dtype)
    trace = net.trace(torch.ones(2, 2, dtype=dtype))
    (first, _), frame = trace.triplets(), trace.to_frame()
    assert first.dtype == dtype
    assert torch.equal(first[..., 1], trace.weight[[1, 3, 5]].expand(2, 3))
    assert frame["weight"].tolist() == trace.weight.tolist()


def test_a_graph_without_edges():
    trace = graphnn.Network(graphnn.NeuronGraph([[], []], 2)).trace(torch.ones(3, 2))
    assert trace.triplets() == []
    assert list(trace.iter_triplets()) == []
    assert trace.top_edges(5).tolist() == []
    assert trace.contributions().shape == (3, 0)
    assert len(trace.to_frame()) == 0


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize(
    "look",
    [
        lambda trace: trace.triplets(),
        lambda trace: trace.triplets("preactivation"),
        lambda trace: [trace.triplets_of([5, 0, 0])],
        lambda trace: [piece for _, piece in trace.iter_triplets(4)],
        lambda trace: [trace.contributions(), trace.contributions([2, 2])],
        lambda trace: [trace.values, trace.preactivations, trace.outputs, trace.weight],
    ],
)
def test_is_differentiable(rng, backend, look):
    graph = skip_graph(activation="tanh")
    net = graphnn.Network(graph, dtype=torch.float64, generator=rng, backend=backend)
    x = torch.randn(3, 2, generator=rng, dtype=torch.float64, requires_grad=True)

    def run(weight, bias, x):
        parameters = {"net.weight": weight, "net.bias": bias}
        return tuple(look(torch.func.functional_call(Traced(net), parameters, (x,))))

    leaves = (net.weight.detach().requires_grad_(), net.bias.detach().requires_grad_(), x)
    assert torch.autograd.gradcheck(run, leaves)


class Traced(nn.Module):
    """Makes `trace` the module's call, so that functional_call reaches it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, *inputs):
        return self.net.trace(*inputs)


def test_second_derivatives_through_triplets(rng):
    net = graphnn.Network(
        skip_graph(activation="tanh"), dtype=torch.float64, generator=rng, backend="reference"
    )
    x = torch.randn(3, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: tuple(net.trace(x).triplets()), (x,))


def test_the_offset_is_added_to_every_preactivation(net, x, rng):
    offset = torch.randn(7, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    trace = net.trace(x, offset=offset)
    plain = net.trace(x + offset[:, :2])
    torch.testing.assert_close(trace.values[:, :2], plain.values[:, :2])
    torch.testing.assert_close(
        trace.preactivations[:, 2:4], plain.preactivations[:, 2:4] + offset[:, 2:4]
    )
    grids = net.trace(x.reshape(7, 1, 2), offset=offset.reshape(7, 1, 5))
    assert torch.equal(grids.values.reshape(7, 5), trace.values)
    trace.preactivations[:, 4].sum().backward()
    assert offset.grad[:, 4].eq(1).all()


def test_no_gradient_under_no_grad(net, x):
    with torch.no_grad():
        trace = net.trace(x)
    assert not any(t.requires_grad for t in (trace.values, trace.weight, *trace.triplets()))


def test_after_inference_mode_it_still_trains(x):
    net = graphnn.Network(skip_graph(), dtype=torch.float64)
    with torch.inference_mode():
        trace = net.trace(x)
        used = trace.triplets(), list(trace.iter_triplets(2)), trace.contributions()
        assert all(map(len, used))
    trace = net.trace(x)
    loss = trace.outputs.sum() + trace.contributions().sum()
    loss = loss + sum(piece.sum() for _, piece in trace.iter_triplets(2))
    loss.backward()
    assert net.weight.grad.isfinite().all()


def test_under_vmap(net, x):
    triplets = torch.vmap(lambda x: net.trace(x).triplets()[1])(x)
    torch.testing.assert_close(triplets, net.trace(x).triplets()[1])


def test_on_the_meta_device():
    trace = graphnn.Network(skip_graph(), device="meta").trace(torch.ones(4, 2, device="meta"))
    assert [level.shape for level in trace.triplets()] == [(4, 3, 3), (4, 3, 3)]
    assert trace.values.device.type == "meta"


@pytest.mark.parametrize(
    ("look", "message"),
    [
        (lambda t: t.triplets("values"), r"target must be 'value' or .* \(got 'values'\)"),
        (lambda t: t.triplets_of([0], target=None), r"target must be .*\(got None\)"),
        (lambda t: t.iter_triplets(target="x"), r"target must be .*\(got 'x'\)"),
        (lambda t: t.triplets_of([0, 6]), r"edge ids in 0 \.\.\. 5, but edges\[1\] is 6"),
        (lambda t: t.triplets_of([-1]), r"but edges\[0\] is -1"),
        (lambda t: t.triplets_of(3), r"edges must be a sequence of edge ids \(got 3\)"),
        (lambda t: t.triplets_of(torch.tensor(3)), r"edges must be one-dimensional"),
        (lambda t: t.triplets_of([0.5]), r"edges must hold integers"),
        (lambda t: t.triplets_of(torch.ones(6, dtype=torch.bool)), r"edges must hold integers"),
        (lambda t: t.contributions([9]), r"but edges\[0\] is 9"),
        (lambda t: t.to_frame(edges=[9]), r"but edges\[0\] is 9"),
        (lambda t: t.iter_triplets(0), r"chunk_edges must be an integer of at least 1 \(got 0\)"),
        (lambda t: t.iter_triplets(2.5), r"chunk_edges must be an integer .*\(got 2\.5\)"),
        (lambda t: t.top_edges(-1), r"k must be an integer and not negative \(got -1\)"),
        (lambda t: t.top_edges(1.5), r"k must be an integer and not negative \(got 1\.5\)"),
        (lambda t: t.top_edges(1, by="value"), r"'contribution' or 'weight' \(got 'value'\)"),
        (lambda t: t.top_edges(1, sample=7), r"sample must be an integer in 0 \.\.\. 6 \(got 7"),
        (lambda t: t.top_edges(1, "weight", 7), r"sample must be an integer in 0 \.\.\. 6 \(got 7"),
        (lambda t: t.top_edges(1, sample=0.5), r"sample must be an integer in .*\(got 0\.5"),
        (lambda t: t.to_frame(sample=-8), r"sample must be an integer in .*\(got -8"),
    ],
)
def test_refuses(net, x, look, message):
    with pytest.raises(graphnn.GraphError, match=message):
        look(net.trace(x))


def test_refuses_to_rank_without_samples(net, x):
    trace = net.trace(x[:0])
    with pytest.raises(graphnn.GraphError, match="over at least one sample"):
        trace.top_edges(2)
    with pytest.raises(graphnn.GraphError, match="the trace has 0 samples"):
        trace.to_frame()
    assert trace.top_edges(6, by="weight").numel() == 6


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (
            torch.zeros(7, 4, dtype=torch.float64),
            r"shape \(7, 5\), one column a neuron \(got \(7, 4",
        ),
        (torch.zeros(5, dtype=torch.float64), r"\(got \(5,\)"),
        (torch.zeros(7, 5), r"offset must have the weights' dtype torch\.float64"),
        (3.0, r"\(got float\)"),
    ],
)
def test_refuses_offsets(net, x, offset, message):
    with pytest.raises(graphnn.GraphError, match=message):
        net.trace(x, offset=offset)
