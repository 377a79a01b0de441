"""A wiring on an accelerator: torch operations find what the compiled loops of the CPU find."""

# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import copy
import dataclasses
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

import graphnn
from graphnn import algorithms, compiled_topology, device_topology, pieces

CHECKS = Path(__file__).parent / "backends" / "elsewhere_checks.py"
GRAPH = ["edge_index", "level", "fan_in", "input_ids", "output_ids", "bias_neurons"]
GRAPH += ["activation_code", "edges_in_level_order"]
SORTED = ["ptr", "source", "order"]


def by_torch(arguments):
    """Builds a graph and its plan by torch operations, on the CPU, in small pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithms, "on", lambda device: device_topology)
        patch.setattr(pieces, "_PIECE", 1)
        graph = graphnn.NeuronGraph(**arguments)
        plan = graphnn.build_plan(graph)
        return graph, plan, plan.tables, graph.edges_in_level_order


def same(one, other):
    """Whether two values are equal, tensors in dtype too, wherever they are."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one):
        names = [f.name for f in dataclasses.fields(one) if f.name not in ("device", "derived")]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    return type(one) is type(other) and one == other


def agree(arguments, build):
    """Compares a graph that `build` makes with the one that compiled loops make."""
    expected = graphnn.NeuronGraph(**arguments)
    graph, plan, tables, _ = build(arguments)
    assert graph == expected
    for name in GRAPH:
        assert same(getattr(graph, name), getattr(expected, name)), name
    for name in SORTED:
        own, others = (getattr(g.sorted_edges, name) for g in (graph, expected))
        assert same(own, others), name
    other_plan = graphnn.build_plan(expected)
    for field in dataclasses.fields(plan):
        if field.name not in ("device", "derived"):
            assert same(getattr(plan, field.name), getattr(other_plan, field.name)), field.name
    assert same(tables, other_plan.tables)


@pytest.mark.parametrize("name", CASES)
def test_agrees_on_every_case(name):
    agree(CASES[name]().arguments(), by_torch)


@st.composite
def wirings(draw):
    """Arguments of a random graph: permuted ids, shuffled edges, constants, isolated neurons."""
    count = draw(st.integers(1, 14))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=50)) if pairs else []
    ids = draw(st.permutations(range(count)))
    edges = np.array([(ids[a], ids[b]) for a, b in chosen], int).reshape(-1, 2).T
    free = sorted(set(range(count)) - set(edges[1].tolist()))
    inputs = [neuron for neuron in free if draw(st.booleans())]
    outputs = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=4))
    names = ["relu", "identity", "leaky_relu", "leaky_relu(0.01)"]
    activation = ["identity" if n in inputs else draw(st.sampled_from(names)) for n in range(count)]
    bias = [n not in inputs and draw(st.booleans()) for n in range(count)]
    return {
        "edge_index": edges, "num_neurons": count, "inputs": inputs, "outputs": outputs,
        "activation": activation, "bias": bias,
    }  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(wirings())
def test_agrees_on_random_graphs(arguments):
    agree(arguments, by_torch)


@pytest.mark.parametrize("seed", range(6))
def test_agrees_on_graphs_of_many_pieces(seed):
    rng = torch.Generator().manual_seed(seed)
    count = 3000
    ends = torch.randint(count, (2, 20_000), generator=rng)
    ends = ends[:, ends[0] != ends[1]].sort(0).values.unique(dim=1)
    if seed % 2:
        ends = torch.randperm(count, generator=rng)[ends]
        ends = ends[:, torch.randperm(ends.shape[1], generator=rng)]
    agree({"edge_index": ends, "num_neurons": count}, by_torch)


@pytest.mark.parametrize("count", [1, 2, 3, 400])
@pytest.mark.parametrize("flipped", [False, True])
def test_agrees_on_chains(count, flipped):
    ids = torch.arange(count).flip(0) if flipped else torch.arange(count)
    agree({"edge_index": torch.stack([ids[:-1], ids[1:]]), "num_neurons": count}, by_torch)


WRONG = {
    "self-loop": {"edge_index": [[0, 1, 2, 2], [1, 2, 2, 2]]},
    "self-loop of a name": {"edge_index": [[0, 1], [1, 1]], "names": ["a", "b"]},
    "duplicate": {"edge_index": [[0, 0, 1, 0, 0, 1], [2, 1, 2, 2, 2, 2]]},
    "duplicate beside others": {"edge_index": [[3, 0, 3, 0, 1], [4, 1, 4, 1, 4]]},
    "duplicates on a row's end": {"edge_index": [[1, 1, 1, 1], [2, 3, 3, 2]]},
    "cycle": {"edge_index": [[0, 1, 2, 3, 4], [1, 2, 3, 1, 0]]},
    "two cycles": {
        "edge_index": [[5, 0, 1, 3, 4, 2, 6], [0, 1, 5, 4, 3, 6, 2]],
        "names": "abcdefg",
    },
    "cycle below an input": {"edge_index": [[0, 1, 2], [1, 2, 1]], "inputs": [0]},
    "a large cycle": {"edge_index": [list(range(2000)), [*range(1, 2000), 0]]},
    "an id too high": {"edge_index": [[0, 1, 5], [1, 2, 9]], "num_neurons": 3},
    "a negative id": {"edge_index": [[0, 1, -5], [1, 2, 9]], "num_neurons": 30},
    "too many neurons": {"edge_index": [[0], [1]], "num_neurons": 2**60},
    "an input with edges": {"edge_index": [[3, 0, 1], [4, 1, 2]], "inputs": [0, 4, 2]},
    "an input twice": {"edge_index": [[0], [1]], "inputs": {"a": [0], "b": [0]}},
    "an input of no neuron": {"edge_index": [[0], [1]], "inputs": {"a": [0, 2]}, "num_neurons": 2},
    "an output of no neuron": {"edge_index": [[0], [1]], "outputs": [-1]},
    "an input with relu": {"edge_index": [[0], [1]], "activation": ["relu", "relu"]},
    "an input with a bias": {"edge_index": [[0], [1]], "bias": [True, True]},
}


@pytest.mark.parametrize("name", WRONG)
def test_refuses_in_the_same_words(name):
    arguments = WRONG[name]
    with pytest.raises(graphnn.GraphError) as expected:
        graphnn.NeuronGraph(**arguments)
    with pytest.raises(graphnn.GraphError, match=f"^{re.escape(str(expected.value))}$"):
        by_torch(arguments)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=14))
def test_says_the_same_of_any_edges(pairs):
    arguments = {"edge_index": np.array(pairs).T, "num_neurons": 8}
    said = []
    for build in (lambda a: graphnn.NeuronGraph(**a), by_torch):
        try:
            build(arguments)
            said.append("nothing")
        except graphnn.GraphError as error:
            said.append(str(error))
    assert said[0] == said[1]


@pytest.mark.parametrize("name", ["random, wide", "no edges at all"])
def test_finds_edges(name, rng):
    graph = CASES[name]()
    pairs = torch.randint(graph.num_neurons, (2, 500), generator=rng)
    pairs = torch.cat([pairs, graph.edge_index.flip(1)], 1)
    own = graph.sorted_edges
    found = [
        module.find_edges(own.ptr, own.source, own.order, *pairs)
        for module in (compiled_topology, device_topology)
    ]
    assert same(*found)
    assert found[0][500:].tolist() == list(reversed(range(graph.num_edges)))


def test_both_modules_have_the_same_functions():
    def names(module):
        return {
            name
            for name, own in vars(module).items()
            if callable(own) and own.__module__ == module.__name__ and name[0] != "_"
        }

    assert names(compiled_topology) == names(device_topology)


def test_refuses_edges_without_numbers():
    with pytest.raises(graphnn.GraphError, match=r"edge_index must hold numbers .*meta device"):
        graphnn.NeuronGraph(torch.zeros(2, 3, dtype=torch.int64, device="meta"))


def test_on_a_device_that_only_says_that_it_is_one():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    root = CHECKS.parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.fixture
def on_gpu(without_gpu):
    """A real GPU."""
    if not torch.cuda.is_available():
        without_gpu("there is no GPU")
    return torch.device("cuda:0")


@pytest.mark.parametrize("name", CASES)
def test_agrees_on_a_gpu(name, on_gpu):
    def build(arguments):
        edges = torch.as_tensor(arguments["edge_index"]).to(on_gpu)
        graph = graphnn.NeuronGraph(**{**arguments, "edge_index": edges})
        assert graph.device == graph.level.device == graph.edges_in_level_order.device == on_gpu
        plan = graphnn.build_plan(graph)
        assert plan.device == plan.edge_order.device == on_gpu
        return graph, plan, plan.tables, graph.edges_in_level_order

    agree(CASES[name]().arguments(), build)


@pytest.mark.parametrize("name", WRONG)
def test_refuses_in_the_same_words_on_a_gpu(name, on_gpu):
    arguments = WRONG[name]
    with pytest.raises(graphnn.GraphError) as expected:
        graphnn.NeuronGraph(**arguments)
    edges = torch.tensor(arguments["edge_index"], device=on_gpu)
    with pytest.raises(graphnn.GraphError, match=f"^{re.escape(str(expected.value))}$"):
        graphnn.NeuronGraph(**{**arguments, "edge_index": edges})


def test_is_copied_and_saved_where_it_is(on_gpu):
    graph = CASES["random"]().to(on_gpu)
    rebuilt = graphnn.NeuronGraph(**graph.arguments())
    assert rebuilt.device == on_gpu
    assert rebuilt == graph == graph.to("cpu")
    loaded = pickle.loads(pickle.dumps(rebuilt))
    assert loaded == rebuilt
    assert loaded.device == on_gpu
    net = graphnn.Network(rebuilt)
    assert net.weight.device == on_gpu
    assert copy.deepcopy(net).graph is rebuilt
    x = torch.ones(3, net.in_features, device=on_gpu)
    assert torch.equal(copy.deepcopy(net)(x), net(x))


def test_a_trace_stays_on_a_gpu(on_gpu):
    here = graphnn.Network(CASES["random, wide"](), backend="reference")
    weight, bias = here.weight.detach().to(on_gpu), here.bias.detach().to(on_gpu)
    there = graphnn.Network(here.graph.to(on_gpu), weight, bias, backend="reference")
    x = torch.rand(5, here.in_features)
    expected, trace = here.trace(x), there.trace(x.to(on_gpu))
    for found, one in zip(trace.triplets(), expected.triplets(), strict=True):
        assert found.device == on_gpu
        torch.testing.assert_close(found.cpu(), one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        trace.contributions().cpu(), expected.contributions(), rtol=1e-4, atol=1e-5
    )
    weightiest = trace.top_edges(40, by="weight")
    assert weightiest.device == on_gpu
    assert torch.equal(weightiest.cpu(), expected.top_edges(40, by="weight"))


def test_building_takes_little_memory_on_a_gpu(on_gpu):
    # Ten levels of 100,000 neurons, every edge from one to the next.
    key = torch.randint(100_000**2 * 9, (1 << 25,), device=on_gpu).unique()
    key = key[torch.randperm(key.numel(), device=on_gpu)]
    level, pair = key // 100_000**2, key % 100_000**2
    source, target = pair // 100_000, pair % 100_000
    ends = torch.stack([source + level * 100_000, target + (level + 1) * 100_000])
    del key, level, pair, source, target
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    graphnn.Network(graphnn.NeuronGraph(ends))
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= 60 * ends.shape[1]
