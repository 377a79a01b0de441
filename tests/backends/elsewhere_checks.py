"""Checks on a device that is not the CPU; test_device_topology runs them, in another process."""

import pytest
import torch
from cases import CASES
from elsewhere import DEVICE, Elsewhere

import graphnn
from graphnn import layout, placing, record
from graphnn.backends import fused_gpu_schedule

EDGES, NEURONS = 20_000, 1_500


class _Here:
    """Runs at once, in this thread: modes are kept per thread."""

    def __init__(self, _):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, function, *arguments):
        self.found = function(*arguments)
        return self

    def result(self):
        return self.found


@pytest.fixture(autouse=True)
def in_this_thread(monkeypatch):
    monkeypatch.setattr(placing, "ThreadPoolExecutor", _Here)


@pytest.fixture
def edges():
    rng = torch.Generator().manual_seed(0)
    ends = torch.randint(NEURONS, (2, EDGES), generator=rng)
    ends = ends[:, ends[0] // 100 < ends[1] // 100].unique(dim=1)
    ends = ends[:, torch.randperm(ends.shape[1], generator=rng)]
    return torch.randperm(NEURONS, generator=rng)[ends]


@pytest.fixture
def pair(edges):
    """(network here, network there, where there is): one network on both devices."""
    here = graphnn.Network(graphnn.NeuronGraph(edges, NEURONS), backend="reference")
    with Elsewhere() as place:
        moved = (edges.to(DEVICE), here.weight.detach().to(DEVICE), here.bias.detach().to(DEVICE))
        place.largest_in = place.largest_out = place.waits = 0
        graph = graphnn.NeuronGraph(moved[0], NEURONS)
        yield here, graphnn.Network(graph, *moved[1:], backend="reference"), place


def test_only_a_few_numbers_cross(edges):
    with Elsewhere() as place:
        moved = edges.to(DEVICE)
        place.largest_in = place.largest_out = place.waits = 0
        graph = graphnn.NeuronGraph(moved, NEURONS)
        net = graphnn.Network(graph, backend="reference")
        assert net.weight.device == net.plan.row_ptr.device == graph.level.device == DEVICE
        assert "elsewhere" in repr(graph.level.device)
        assert place.largest_in <= graph.num_levels
        assert place.largest_out <= 4 * graph.num_levels
        graphnn.init.kaiming_uniform_(net)
        assert 0 < graph.density < 1
        assert place.largest_out <= graph.num_levels**2
    expected = graphnn.NeuronGraph(edges, NEURONS)
    assert graph.num_levels == expected.num_levels


def test_a_level_costs_a_few_waits():
    chain = torch.arange(101)
    with Elsewhere() as place:
        moved = torch.stack([chain[:-1], chain[1:]]).to(DEVICE)
        place.waits = 0
        graphnn.build_plan(graphnn.NeuronGraph(moved))
        assert place.waits <= 3 * 100 + 30


def test_tables_cross_by_level(pair):
    _, there, place = pair
    place.largest_in = place.largest_out = 0
    assert len(there.plan.levels) == there.graph.num_levels - 1
    assert place.largest_in <= there.graph.num_levels + 1
    assert place.largest_out < NEURONS


def test_gpu_schedules_stay_there(pair):
    here, there, place = pair
    expected = fused_gpu_schedule.Schedule(here.plan)
    place.largest_in = place.largest_out = 0
    found = fused_gpu_schedule.Schedule(there.plan)
    for name in ("ptr", "target", "edge"):
        own, others = (getattr(made.transpose, name) for made in (found, expected))
        assert torch.equal(own.to("cpu"), others)
    assert found.ring.size == expected.ring.size
    assert found.seeded == expected.seeded
    assert place.largest_in == 0


def test_traces_stay_there(pair):
    here, there, place = pair
    assert there.graph == here.graph
    assert here.graph == there.graph
    with torch.no_grad():
        x = torch.rand(3, here.in_features)
        expected = here.trace(x)
        moved = x.to(DEVICE)
        place.largest_in = place.largest_out = 0
        trace = there.trace(moved)
        triplets = trace.triplets()
        pieces = list(trace.iter_triplets(777))
        contributions = trace.contributions()
        strongest = trace.top_edges(50)
        chosen = trace.triplets_of(strongest), trace.contributions(strongest)
    assert place.largest_in <= there.graph.num_levels + 1
    assert place.largest_out < NEURONS
    for found, one in zip(triplets, expected.triplets(), strict=True):
        assert found.device == DEVICE
        assert torch.allclose(found.to("cpu"), one)
    for (ids, found), (same_ids, one) in zip(pieces, expected.iter_triplets(777), strict=True):
        assert ids.device == found.device == DEVICE
        assert torch.equal(ids.to("cpu"), same_ids)
        assert torch.allclose(found.to("cpu"), one)
    assert torch.allclose(contributions.to("cpu"), expected.contributions())
    assert torch.equal(strongest.to("cpu"), expected.top_edges(50))
    assert torch.allclose(chosen[0].to("cpu"), expected.triplets_of(expected.top_edges(50)))
    assert torch.allclose(chosen[1].to("cpu"), expected.contributions(expected.top_edges(50)))
    frame = trace.to_frame(edges=strongest)
    assert frame.index.tolist() == expected.top_edges(50).tolist()


def test_a_graph_of_the_cpu_is_moved_once(pair):
    here, there, place = pair
    moved = graphnn.Network(here.graph, there.weight, there.bias, backend="reference")
    with torch.no_grad():
        trace = moved.trace(torch.rand(3, here.in_features).to(DEVICE))
        trace.triplets()
        place.largest_in = 0
        trace.triplets()
        trace.contributions()
        trace.top_edges(5)
    assert place.largest_in == 0
    assert here.graph.to(DEVICE).to("cpu") is here.graph


OPTIONS = {
    "nothing": {},
    "one name": {"activation": "tanh", "output_activation": "sigmoid", "bias": False},
    "dicts": {"activation": {3: "tanh", 5: "sigmoid"}, "bias": {3: 0.5, 5: -1}},
    "groups": {"outputs": {"a": torch.tensor([7, 9]), "b": [7, 1600]}},
    "added up": {"coalesce": "sum"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_ids_become_a_network_there(edges, name):
    options = {**OPTIONS[name], "backend": "reference"}
    if name == "added up":
        edges = torch.cat([edges, edges[:, ::2].flip(1), edges[:, :1]], 1)
    if name == "dicts":
        # None of them is an input.
        options["inputs"] = sorted({*edges[0].tolist()} - {*edges[1].tolist()} - {3, 5})
    expected = graphnn.from_edges(edges.to(torch.int32), **options)
    with Elsewhere() as place:
        moved = edges.to(DEVICE, torch.int32)
        for role, groups in options.items():
            if isinstance(groups, dict) and role == "outputs":
                options[role] = {**groups, "a": groups["a"].to(DEVICE)}
        place.largest_in = place.largest_out = 0
        net = graphnn.from_edges(moved, **options)
        given = len(options.get("inputs", []))
        assert place.largest_in <= max(net.graph.num_levels, given)
        assert place.largest_out <= max(4 * net.graph.num_levels, given)
        assert net.weight.device == net.bias.device == net.graph.device == DEVICE
        assert net.graph == expected.graph
        if name == "dicts":
            assert torch.equal(net.bias.detach().to("cpu"), expected.bias.detach())


def test_ids_from_there_may_have_parameters_here(edges):
    with Elsewhere():
        net = graphnn.from_edges(edges.to(DEVICE), backend="reference", device="cpu")
        assert net.weight.device.type == "cpu"
        assert net.graph.device == DEVICE
        x = torch.zeros(1, net.in_features)
        assert torch.isfinite(net(x)).all()


WRONG = {
    "one row": ([[0, 1, 2]], {}),
    "transposed": ([[0, 1], [1, 2], [2, 3]], {}),
    "negative": ([[0, -1], [1, 2]], {}),
    "nothing": ([[], []], {}),
    "far apart": ([[0, 1], [1, 2**40]], {}),
    "twice": ([[0, 1, 0], [1, 2, 1]], {}),
    "itself": ([[0, 1, 2], [1, 2, 2]], {"coalesce": "sum"}),
    "a cycle": ([[0, 1, 2], [1, 2, 1]], {}),
    "no such input": ([[0, 1], [1, 2]], {"inputs": [0, -1]}),
    "an input far away": ([[0, 1], [1, 2]], {"inputs": [0, 2**40]}),
    "an input with edges": ([[0, 1], [1, 2]], {"inputs": {"a": [0], "b": [1]}}),
    "an empty group": ([[0, 1], [1, 2]], {"outputs": []}),
    "no such label": ([[0, 1], [1, 2]], {"activation": {7: "relu"}}),
    "no such name": ([[0, 1], [1, 2]], {"activation": {2: "reluu"}}),
    "an input with relu": ([[0, 1], [1, 2]], {"activation": {1: "tanh", 0: "relu"}}),
    "an input with a bias": ([[0, 1], [1, 2]], {"bias": {1: 1.0, 0: 0.0}}),
    "a bias of no number": ([[0, 1], [1, 2]], {"bias": {1: 1.0, 2: "x"}}),
}


@pytest.mark.parametrize("name", WRONG)
def test_refuses_ids_in_the_same_words(name):
    edges, options = WRONG[name]
    said = []
    with Elsewhere():
        for device in ("cpu", DEVICE):
            own = torch.tensor(edges, dtype=torch.int64).to(device)
            with pytest.raises(graphnn.GraphError) as error:
                graphnn.from_edges(own, **options)
            said.append(str(error.value))
    assert said[0] == said[1]


def first_pair(net):
    return tuple(net.graph.edge_index[:, 0].tolist())


def inner_neurons(net):
    return [n for n in range(20) if n not in net.graph.output_ids.tolist()]


def of_samples(function):
    def run(net):
        x = torch.rand(4, net.in_features, generator=torch.Generator().manual_seed(0))
        return function(net, x.to(net.weight.device))

    return run


CONSUMERS = {
    "str": str,
    "repr": repr,
    "html": lambda net: net.graph._repr_html_(),
    "trace": of_samples(lambda net, x: str(net.trace(x))),
    "prune": lambda net: graphnn.edit.prune(net, [0, 5]).weight,
    "subgraph": lambda net: graphnn.edit.subgraph(net, [0, 5, 7]).weight,
    "remove_neurons": lambda net: (
        graphnn.edit.remove_neurons(net, inner_neurons(net)).graph.edge_index
    ),
    "add_edges": lambda net: (
        graphnn.edit.add_edges(net, net.graph.edge_index[:, :0]).graph.edge_index
    ),
    "ids": lambda net: net.graph.ids([3, 4]),
    "edge_ids": lambda net: net.graph.edge_ids(*net.graph.edge_index[:, :50]),
    "of_level": lambda net: net.graph.edges_of_level(2),
    "record": lambda net: record.Record.of(net).edge_index,
    "networkx": lambda net: sorted(graphnn.to_networkx(net).edges)[:50],
    "pyg": lambda net: graphnn.to_pyg(net).edge_index,
    "pyg and back": lambda net: graphnn.from_pyg(graphnn.to_pyg(net)).graph.level,
    "module": of_samples(lambda net, x: graphnn.to_module(net)(x)),
    "layout": lambda net: layout.layout(net.graph).tolist(),
    "weights_": lambda net: graphnn.init.weights_(net, {first_pair(net): 1.0}),
    "sparse_": lambda net: (graphnn.init.sparse_(net, 2) != 0).sum(),
    "ablate": lambda net: graphnn.attribution.ablate(net, [3, 4], 0.5).graph.edge_index,
    "gradient": of_samples(lambda net, x: graphnn.attribution.gradient(net, x, 3, "edge")),
    "by value": of_samples(lambda net, x: graphnn.attribution.gradient(net, x, 3, "value")),
    "circuit": of_samples(lambda net, x: graphnn.attribution.circuit_edges(net, x, 3, 40)),
    "paths": of_samples(
        lambda net, x: graphnn.attribution.integrated_gradients(net, x, 3, steps=2)
    ),
    "picture": of_samples(lambda net, x: graphnn.viz.draw(net, net.trace(x), max_edges=30)),
    "degrees": lambda net: len(graphnn.viz.plot_degrees(net.graph).axes),
    "weights": lambda net: len(graphnn.viz.plot_weights(net).axes),
    "sparsity": lambda net: len(graphnn.viz.plot_sparsity(net.graph, 2).axes),
}


@pytest.mark.parametrize("name", CONSUMERS)
def test_whoever_reads_a_graph_gets_the_same(pair, name):
    results = []
    for net in pair[:2]:
        found = CONSUMERS[name](net)
        if isinstance(found, torch.Tensor):
            found = found.detach().to("cpu")
            found = found.tolist() if not found.is_floating_point() else found.double()
        results.append(found.replace("elsewhere:0", "cpu") if isinstance(found, str) else found)
    if isinstance(results[0], torch.Tensor):
        torch.testing.assert_close(*results)
    else:
        assert results[0] == results[1]


@pytest.mark.parametrize("name", [name for name in CASES if "0" not in name and "wide" not in name])
def test_writes_the_same_files(name, tmp_path):
    here = graphnn.Network(CASES[name](), backend="reference")
    with Elsewhere():
        arguments = here.graph.arguments()
        arguments["edge_index"] = arguments["edge_index"].to(DEVICE)
        weight, bias = here.weight.detach().to(DEVICE), here.bias.detach().to(DEVICE)
        there = graphnn.Network(graphnn.NeuronGraph(**arguments), weight, bias, "reference")
        for file, net in ((tmp_path / "here", here), (tmp_path / "there", there)):
            graphnn.save(net, file.with_suffix(".safetensors"))
            graphnn.write_graphml(net, file.with_suffix(".graphml"))
            graphnn.write_gexf(net, file.with_suffix(".gexf"))
    for suffix in (".safetensors", ".graphml", ".gexf"):
        one, other = (tmp_path / f"{own}{suffix}" for own in ("here", "there"))
        assert one.read_bytes() == other.read_bytes()


def test_a_stack_goes_back_to_its_layers(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    here = graphnn.from_sequential(model)
    with Elsewhere() as place:
        weight, bias = here.weight.detach().to(DEVICE), here.bias.detach().to(DEVICE)
        arguments = here.graph.arguments()
        edges = arguments["edge_index"].to(DEVICE)
        there = graphnn.Network(
            graphnn.NeuronGraph(**{**arguments, "edge_index": edges}), weight, bias, "reference"
        )
        place.largest_in = place.largest_out = 0
        assert there.plan.block_first_edge.tolist() == [-1, 0, 12]
        assert place.largest_out == 3
        back = graphnn.to_sequential(there)
        assert [own.to("cpu").tolist() for own in back.parameters()] == [
            own.tolist() for own in model.parameters()
        ]
        graphnn.write_onnx(there, tmp_path / "there.onnx")
    graphnn.write_onnx(here, tmp_path / "here.onnx")
    assert (tmp_path / "there.onnx").read_bytes() == (tmp_path / "here.onnx").read_bytes()
