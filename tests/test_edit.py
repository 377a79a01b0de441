"""Edited networks keep what survives, compute what they should, and leave the given one alone."""

import copy

import numpy as np
import pytest
import torch
from cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from graphnn import GraphError, Network, NeuronGraph
from graphnn.edit import add_edges, prune, remove_neurons, subgraph

# Neurons 0 and 1 are inputs, 2 and 3 hidden, 4 and 5 outputs, 6 a constant that feeds 5.
EDGES = torch.tensor([[1, 0, 2, 3, 0, 2, 6], [3, 2, 4, 5, 4, 5, 5]])
NAMES = ("x", "y", 2, "3", "out", 5, "const")


def small(rng, **options):
    graph = NeuronGraph(
        EDGES,
        inputs={"a": [1], "b": [0]},
        outputs={"o": [5, 4, 5], "p": [4]},
        activation=[
            "identity",
            "identity",
            "tanh",
            "leaky_relu(0.2)",
            "sigmoid",
            "elu(0.5)",
            "sin",
        ],
        bias=[False, False, True, False, True, True, True],
        names=NAMES,
    )
    return Network(graph, dtype=torch.float64, generator=rng, **options)


def random_net(seed, num_neurons=14, share=0.3):
    """A random DAG: permuted ids, shuffled edges, some constants, every third bias absent."""
    rng = torch.Generator().manual_seed(seed)
    pairs = torch.triu_indices(num_neurons, num_neurons, 1)
    pairs = pairs[:, torch.rand(pairs.shape[1], generator=rng) < share]
    pairs = pairs[:, torch.randperm(pairs.shape[1], generator=rng)]
    edges = torch.randperm(num_neurons, generator=rng)[pairs]
    free = torch.bincount(edges[1], minlength=num_neurons) == 0
    inputs = free.nonzero().flatten()[::2]
    is_input = torch.zeros(num_neurons, dtype=torch.bool)
    is_input[inputs] = True
    graph = NeuronGraph(
        edges,
        num_neurons=num_neurons,
        inputs=inputs,
        outputs=torch.randint(num_neurons, (4,), generator=rng),
        activation=["identity" if i else "tanh" for i in is_input.tolist()],
        bias=(~is_input) & (torch.arange(num_neurons) % 3 > 0),
        names=[f"n{i}" for i in range(num_neurons)],
    )
    return Network(graph, dtype=torch.float64, generator=rng)


def labels(graph, ids):
    assert graph.names is not None
    return [graph.names[i] for i in ids.tolist()]


def inputs_of(net, rng, samples=5):
    dtype = net.weight.dtype
    return {
        name: torch.randn(samples, ids.numel(), dtype=dtype, generator=rng)
        for name, ids in net.graph.inputs.items()
    }


def values_by_name(net, inputs):
    """Name -> values of that neuron, by the formula, one neuron after the other."""
    graph = net.graph
    weight, source, target = net.weight.detach(), *graph.edge_index.tolist()
    bias = dict(zip(graph.bias_neurons.tolist(), net.bias.detach(), strict=True))
    value = {}
    for name, ids in graph.inputs.items():
        value.update({n: inputs[name][:, column] for column, n in enumerate(ids.tolist())})
    samples = next(iter(inputs.values())).shape[0]
    for neuron in graph.level.argsort().tolist():
        if neuron in value:
            continue
        total = torch.zeros(samples, dtype=weight.dtype) + bias.get(neuron, 0.0)
        for edge in range(graph.num_edges):
            if target[edge] == neuron:
                total = total + weight[edge] * value[source[edge]]
        named = graph.activation_table[graph.activation_code[neuron]]
        value[neuron] = named(total)
    return {graph.names[neuron]: v for neuron, v in value.items()}


def named_parameters(net):
    """(source name, target name) -> weight, and name -> bias, in order, as exact numbers."""
    names = net.graph.names
    pairs = [(names[s], names[t]) for s, t in net.graph.edge_index.t().tolist()]
    weights = dict(zip(pairs, net.weight.tolist(), strict=True))
    biases = [names[i] for i in net.graph.bias_neurons.tolist()]
    return weights, dict(zip(biases, net.bias.tolist(), strict=True))


def state(net):
    return (
        net.graph,
        net.weight.detach().clone(),
        net.bias.detach().clone(),
        net.backend,
        net.output_transform,
        net.training,
    )


def unchanged(net, before):
    now = state(net)
    return (
        now[0] is before[0]
        and torch.equal(now[1], before[1])
        and torch.equal(now[2], before[2])
        and now[3:] == before[3:]
    )


def test_prune_keeps_everything_else(rng):
    net = small(rng)
    before = state(net)
    pruned = prune(net, [5, 0])
    kept = [1, 2, 3, 4, 6]
    assert pruned.graph == NeuronGraph(**{**net.graph.arguments(), "edge_index": EDGES[:, kept]})
    assert torch.equal(pruned.weight, net.weight[kept])
    assert torch.equal(pruned.bias, net.bias)
    assert unchanged(net, before)


def test_prune_is_a_zero_weight(rng):
    net = small(rng)
    x = inputs_of(net, rng)
    zeroed = copy.deepcopy(net)
    with torch.no_grad():
        zeroed.weight[[0, 5]] = 0
    for one, other in zip(prune(net, [5, 0])(**x), zeroed(**x), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-15)


def test_a_neuron_without_its_last_edge_is_a_constant(rng):
    net = small(rng)
    pruned = prune(net, [1])
    assert pruned.graph.level[2] == 1
    value = pruned.trace(**inputs_of(net, rng)).values[:, 2]
    torch.testing.assert_close(value, net.bias[0].tanh().expand(5), rtol=1e-14, atol=0)


def test_an_input_stays_one_when_its_edges_go(rng):
    pruned = prune(small(rng), range(7))
    assert pruned.graph.num_edges == 0
    assert {name: ids.tolist() for name, ids in pruned.graph.inputs.items()} == {"a": [1], "b": [0]}


def test_remove_neurons_renumbers_and_shrinks_groups(rng):
    net = small(rng)
    before = state(net)
    smaller = remove_neurons(net, torch.tensor([5, 1]))
    graph = smaller.graph
    assert graph.names == ("x", 2, "3", "out", "const")
    assert graph.edge_index.tolist() == [[0, 1, 0], [1, 3, 3]]
    assert {name: ids.tolist() for name, ids in graph.inputs.items()} == {"a": [], "b": [0]}
    assert {name: ids.tolist() for name, ids in graph.outputs.items()} == {"o": [3], "p": [3]}
    assert graph.activation == ("identity", "tanh", "leaky_relu(0.2)", "sigmoid", "sin")
    assert graph.bias_neurons.tolist() == [1, 3, 4]
    assert torch.equal(smaller.weight, net.weight[[1, 2, 4]])
    assert torch.equal(smaller.bias, net.bias[[0, 1, 3]])
    assert unchanged(net, before)


def test_subgraph_drops_what_no_output_depends_on(rng):
    net = small(rng)
    before = state(net)
    # 0 -> 2 -> 4 is a path to an output; 1 -> 3 leads nowhere once 3 -> 5 is gone.
    circuit = subgraph(net, np.array([2, 0, 1]))
    graph = circuit.graph
    assert graph.names == ("x", 2, "out", 5)
    assert graph.edge_index.tolist() == [[0, 1], [1, 2]]
    assert {name: ids.tolist() for name, ids in graph.inputs.items()} == {"a": [], "b": [0]}
    assert {name: ids.tolist() for name, ids in graph.outputs.items()} == {"o": [3, 2, 3], "p": [2]}
    assert torch.equal(circuit.weight, net.weight[[1, 2]])
    assert torch.equal(circuit.bias, net.bias[[0, 1, 2]])
    assert unchanged(net, before)


def test_subgraph_of_nothing_is_constant_outputs(rng):
    net = small(rng)
    circuit = subgraph(net, [])
    assert circuit.graph.names == ("out", 5)
    x = {"a": torch.zeros(2, 0, dtype=torch.float64), "b": torch.zeros(2, 0, dtype=torch.float64)}
    assert torch.equal(circuit(**x).p, net.bias[1].sigmoid().expand(2, 1))


def test_subgraph_of_a_long_chain():
    ids = torch.arange(100_000)
    net = Network(NeuronGraph(torch.stack([ids[:-1], ids[1:]])))
    assert subgraph(net, torch.arange(99_999)).graph == net.graph


def test_add_edges_appends(rng):
    net = small(rng)
    before = state(net)
    wider = add_edges(net, [[1, 0], [6, 5]], weight=[2.5, -0.5])
    assert torch.equal(
        wider.graph.edge_index, torch.cat([EDGES, torch.tensor([[1, 0], [6, 5]])], 1)
    )
    assert torch.equal(wider.weight[:7], net.weight)
    assert wider.weight[7:].tolist() == [2.5, -0.5]
    assert torch.equal(wider.bias, net.bias)
    assert wider.graph.names == NAMES
    assert unchanged(net, before)
    # The former constant keeps its bias.
    x = inputs_of(net, rng)
    value = wider.trace(**x).values[:, 6]
    torch.testing.assert_close(value, torch.sin(2.5 * x["a"][:, 0] + net.bias[3]))


def test_pruning_what_was_added_gives_the_same_network(rng):
    net = small(rng)
    again = prune(add_edges(net, [[1, 0], [6, 5]], generator=rng), [7, 8])
    assert again.graph == net.graph
    assert torch.equal(again.weight, net.weight)


def test_added_weights_are_drawn_from_the_new_fan_in():
    edges = torch.stack([torch.arange(1000), torch.full((1000,), 8000)])
    net = Network(
        NeuronGraph(edges, num_neurons=8001, inputs=torch.arange(8000)), dtype=torch.float64
    )
    added = torch.stack([torch.arange(1000, 8000), torch.full((7000,), 8000)])
    drawn = add_edges(net, added, generator=torch.Generator().manual_seed(1)).weight[1000:]
    bound = 8000**-0.5
    assert bound * 0.99 < drawn.abs().max() <= bound
    assert abs(drawn.std() / (bound / 3**0.5) - 1) < 0.02
    again = add_edges(net, added, generator=torch.Generator().manual_seed(1)).weight[1000:]
    assert torch.equal(drawn, again)


def test_added_weights_are_drawn_by_a_generator_only(rng):
    with pytest.raises(GraphError, match=r"must be a torch\.Generator \(got int\)"):
        add_edges(small(rng), [[0], [5]], generator=3)  # pyright: ignore[reportArgumentType]


def test_given_weights_draw_nothing(rng):
    before = torch.random.get_rng_state()
    add_edges(small(rng), [[0], [5]], weight=np.array([1.0], np.float32))
    prune(small(rng), [0])
    assert torch.equal(torch.random.get_rng_state(), before)


EDITS = {
    "prune": lambda net: prune(net, [0]),
    "remove_neurons": lambda net: remove_neurons(net, [3]),
    "subgraph": lambda net: subgraph(net, [1, 2]),
    "add_edges": lambda net: add_edges(net, [[0], [5]], weight=[1.0]),
}


@pytest.fixture(params=list(EDITS.values()), ids=list(EDITS))
def edit(request):
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_every_edit_keeps_the_settings(edit, dtype, rng):
    net = small(rng, output_transform="log_softmax", backend="reference").to(dtype)
    net.eval()
    net.bias.requires_grad_(False)
    made = edit(net)
    assert made.weight.dtype == made.bias.dtype == dtype
    assert made.backend == "reference"
    assert made.output_transform == "log_softmax"
    assert not made.training
    assert made.weight.requires_grad
    assert not made.bias.requires_grad


def test_every_edit_works_without_gradients(edit, rng):
    with torch.no_grad():
        made = edit(small(rng))
    assert made.weight.requires_grad
    assert made.bias.requires_grad
    assert made.weight.is_leaf


def test_every_edit_shares_no_parameter(edit, rng):
    net = small(rng)
    before = state(net)
    made = edit(net)
    with torch.no_grad():
        made.weight.fill_(7)
        made.bias.fill_(7)
    assert unchanged(net, before)


@pytest.mark.parametrize(
    ("name", "edges", "biases"),
    [
        ("prune", [1, 2, 3, 4, 5, 6], [0, 1, 2, 3]),
        ("remove_neurons", [1, 2, 4, 5, 6], [0, 1, 2, 3]),
        ("subgraph", [1, 2], [0, 1, 2]),
        ("add_edges", [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3]),
    ],
)
def test_every_edit_keeps_the_bits(name, edges, biases, rng):
    net = small(rng).float()
    # Signalling and quiet NaN with payloads, infinity, -0, subnormals.
    bits = torch.tensor([1, 0x7F800001, 0x7FC12345, 0xFF800002 - 2**32, 0x7F800000, -(2**31), -7])
    with torch.no_grad():
        net.weight.copy_(bits.to(torch.int32).view(torch.float32))
        net.bias.copy_(bits[:4].to(torch.int32).view(torch.float32))
    made = EDITS[name](net)
    assert made.weight.view(torch.int32)[: len(edges)].tolist() == bits[edges].tolist()
    assert made.bias.view(torch.int32).tolist() == bits[biases].tolist()


def test_every_edit_takes_effective_weights(edit, rng):
    class Double(nn.Module):
        def forward(self, value):
            return 2 * value

    net = small(rng)
    plain = copy.deepcopy(net)
    with torch.no_grad():
        plain.weight.mul_(2)
    nn.utils.parametrize.register_parametrization(net, "weight", Double())
    made = edit(net)
    assert torch.equal(made.weight, edit(plain).weight)
    assert not nn.utils.parametrize.is_parametrized(made)
    assert made.weight.requires_grad
    net.requires_grad_(False)
    assert not edit(net).weight.requires_grad


def test_every_edit_runs_on_the_meta_device(edit, rng):
    made = edit(small(rng).to("meta"))
    assert made.weight.device.type == "meta"


@pytest.mark.parametrize("name", CASES)
def test_editing_nothing_gives_an_equal_network(name, rng):
    net = Network(CASES[name](), generator=rng)
    none = torch.zeros(2, 0, dtype=torch.long)
    for same in (prune(net, []), remove_neurons(net, []), add_edges(net, none)):
        assert same is not net
        assert same.graph == net.graph
        assert torch.equal(same.weight, net.weight)
        assert torch.equal(same.bias, net.bias)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_random_subgraph_computes_what_pruning_the_rest_does(seed, share):
    net = random_net(seed)
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.rand(net.graph.num_edges, generator=rng) < share
    x = inputs_of(net, rng)
    pruned = prune(net, (~chosen).nonzero().flatten())
    circuit = subgraph(net, chosen.nonzero().flatten())
    zeroed = copy.deepcopy(net)
    with torch.no_grad():
        zeroed.weight.mul_(chosen)
    torch.testing.assert_close(pruned(**x), zeroed(**x), rtol=0, atol=1e-14)
    names = labels(net.graph, net.graph.inputs["input"])
    own = labels(circuit.graph, circuit.graph.inputs["input"])
    assert own == [name for name in names if name in own]
    fewer = x["input"][:, [names.index(name) for name in own]]
    torch.testing.assert_close(circuit(fewer), pruned(**x), rtol=0, atol=1e-14)
    # Nothing is left that no output depends on.
    again = subgraph(circuit, torch.arange(circuit.graph.num_edges))
    assert again.graph == circuit.graph
    has_reader = set(circuit.graph.edge_index[0].tolist()) | set(circuit.graph.output_ids.tolist())
    assert has_reader == set(range(circuit.graph.num_neurons))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.floats(0, 0.6))
def test_random_removal_keeps_every_surviving_number(seed, share):
    net = random_net(seed)
    graph, rng = net.graph, torch.Generator().manual_seed(seed)
    removed = torch.rand(graph.num_neurons, generator=rng) < share
    removed[graph.output_ids[0]] = False
    smaller = remove_neurons(net, removed.nonzero().flatten())
    gone = set(labels(graph, removed.nonzero().flatten()))
    weights, biases = named_parameters(net)
    expected = {pair: w for pair, w in weights.items() if not gone & set(pair)}
    assert list(named_parameters(smaller)[0].items()) == list(expected.items())
    assert named_parameters(smaller)[1] == {n: b for n, b in biases.items() if n not in gone}
    x = inputs_of(net, rng)
    names = labels(graph, graph.inputs["input"])
    columns = [i for i, name in enumerate(names) if name not in gone]
    fewer = {"input": x["input"][:, columns]}
    by_name = values_by_name(smaller, fewer)
    outputs = labels(graph, graph.output_ids)
    expected = torch.stack([by_name[name] for name in outputs if name not in gone], 1)
    torch.testing.assert_close(smaller(**fewer), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("edit", "ids", "match"),
    [
        (prune, [0, 7], r"edges must be edge ids in 0 \.\.\. 6, but edges\[1\] is 7"),
        (prune, [-1], r"edges\[0\] is -1"),
        (prune, [1.0], "edges must hold integers"),
        (prune, 3, "edges must be a sequence of edge ids"),
        (prune, [[1]], "edges must be one-dimensional"),
        (prune, [2, 3, 2], r"edges must be distinct, but edge 2 \(edges\[0\]\) occurs 2 times"),
        (subgraph, [6, 6, 6], r"edge 6 \(edges\[0\]\) occurs 3 times. Use torch.unique"),
        (subgraph, [9], r"edges\[0\] is 9"),
        (remove_neurons, [7], r"neurons must be neuron ids in 0 \.\.\. 6, but neurons\[0\] is 7"),
        (remove_neurons, [0, 0], r"neurons must be distinct, but neuron 0"),
        (remove_neurons, [0, 4, 5], r"all of 'o' would be removed, the first being 5 \(neuron 5\)"),
        (remove_neurons, [4], r"output group must keep at least one neuron, but all of 'p'"),
    ],
)
def test_ids_that_cannot_be(edit, ids, match, rng):
    net = small(rng)
    with pytest.raises(GraphError, match=match):
        edit(net, ids)


@pytest.mark.parametrize("edit", [prune, subgraph, remove_neurons])
@pytest.mark.parametrize("make", [list, tuple, torch.tensor, np.array])
def test_a_mask_is_refused_with_a_hint(edit, make, rng):
    with pytest.raises(GraphError, match=r"ids, not a mask .*torch\.nonzero"):
        edit(small(rng), make([True, False] + [False] * 5))


@pytest.mark.parametrize(
    ("edges", "match"),
    [
        ([[0], [7]], r"edge_index\[:, j\] is edge 7 \+ j .* but edge 7 is 0 -> 7"),
        ([[0, 0], [5, 4]], r"edges 4 and 8 both go from 'x' \(neuron 0\) to 'out'"),
        ([[0, 0], [5, 5]], r"edges 7 and 8 both go"),
        ([[4], [4]], r"edge 7 goes from 'out' \(neuron 4\) to itself"),
        ([[5], [2]], r"contains the cycle .* \(edges"),
        ([[2], [1]], r"no incoming edges, but edge 7 goes from 2 \(neuron 2\) to the input 'y'"),
        ([[0, 1, 2]], r"edge_index must have shape \(2, E\)"),
        ([[0.5], [1.5]], "edge_index must hold integers"),
    ],
)
def test_edges_that_cannot_be_added(edges, match, rng):
    net = small(rng)
    before = state(net)
    with pytest.raises(GraphError, match=match):
        add_edges(net, edges)
    assert unchanged(net, before)


@pytest.mark.parametrize(
    ("weight", "match"),
    [
        ([1.0, 2.0], r"weight must be real numbers of shape \(1,\).*got shape \(2,\)"),
        (1.0, r"got shape \(\)"),
        ([True], r"got shape \(1,\), torch.bool"),
        ([1j], "complex"),
        (["a"], "weight must be numbers"),
    ],
)
def test_weights_that_cannot_be_added(weight, match, rng):
    with pytest.raises(GraphError, match=match):
        add_edges(small(rng), [[0], [5]], weight=weight)


def test_what_is_no_network_is_refused(edit):
    with pytest.raises(GraphError, match=r"net must be a graphnn\.Network \(got Linear\)"):
        edit(nn.Linear(2, 2))
