"""Networks to and from PyTorch Geometric, alone and in batches."""

import pickle
from typing import Any

import pytest
import torch
from cases import CASES
from torch import nn
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv

from graphnn import (
    BackendError,
    ConversionError,
    GraphError,
    Network,
    NeuronGraph,
    activation,
    register_activation,
)
from graphnn.convert.pyg import FEATURE_ACTIVATIONS, from_pyg, to_pyg

INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def together(data) -> Any:
    return Batch.from_data_list(data)


def bits(values):
    return values.detach().view(INTEGER[values.dtype.itemsize])


def same(one, other):
    return (
        one.graph == other.graph
        and one.output_transform == other.output_transform
        and one.weight.dtype == other.weight.dtype
        and torch.equal(bits(one.weight), bits(other.weight))
        and torch.equal(bits(one.bias), bits(other.bias))
    )


def any_bits(count, dtype, rng):
    """Uniform over all bit patterns: NaN payloads, infinities, subnormals and -0 among them."""
    information = torch.iinfo(INTEGER[dtype.itemsize])
    drawn = torch.randint(information.min, information.max, (count,), generator=rng)
    return drawn.to(INTEGER[dtype.itemsize]).view(dtype)


def hard_net(graph, rng, dtype=torch.float32, **options):
    weight = any_bits(graph.num_edges, dtype, rng)
    bias = any_bits(graph.bias_neurons.numel(), dtype, rng)
    return Network(graph, weight, bias, **options)


def named(names):
    return NeuronGraph([[0, 1, 2], [2, 3, 3]], names=names, activation="tanh")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_round_trip_is_exact(name, dtype, rng):
    net = hard_net(CASES[name](), rng, dtype)
    data: Any = to_pyg(net)
    assert data.validate()
    assert same(from_pyg(data), net)


@pytest.mark.parametrize(
    "names", [["a", "b", "c", "d"], [3, 1, 0, -(10**30)], ["1", 1, "", "\ud800"]]
)
def test_names_come_back_as_they_were(names, rng):
    again = from_pyg(to_pyg(hard_net(named(names), rng)))
    assert again.graph.names == tuple(names)
    assert [type(name) for name in again.graph.names or ()] == [type(name) for name in names]


@pytest.mark.parametrize("transform", [None, "softmax", "log_softmax"])
def test_output_transform_and_groups(transform, rng):
    net = hard_net(CASES["groups"](), rng, output_transform=transform)
    again = from_pyg(to_pyg(net))
    assert same(again, net)
    assert list(again.graph.inputs) == ["x2", "x1"]


def test_features():
    graph = NeuronGraph(
        [[0, 1, 2, 1], [2, 2, 3, 3]],
        inputs=[1, 0],
        outputs=[3, 1, 3],
        activation=["identity", "identity", "leaky_relu(0.2)", "square"],
        bias=[False, False, False, True],
    )
    data: Any = to_pyg(Network(graph, [1.0, 2.0, 3.0, 4.0], [0.5]))
    assert data.edge_index.tolist() == [[0, 1, 2, 1], [2, 2, 3, 3]]
    assert data.edge_attr.tolist() == [[1.0], [2.0], [3.0], [4.0]]
    assert data.x.tolist() == [
        [0.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 0.0, 3.0],
        [0.0, 3.0, 1.0, 0.0],
        [0.5, 21.0, 2.0, 2.0],
    ]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_feature_dtype(dtype, expected, rng):
    data: Any = to_pyg(Network(CASES["dense"](), dtype=dtype))
    assert data.x.dtype == expected
    assert data.edge_attr.dtype == dtype


def test_levels_of_half_precision_networks_are_exact():
    data: Any = to_pyg(Network(CASES["depth 500 chain"](), dtype=torch.bfloat16))
    assert data.x[:, 2].tolist() == list(range(500))


def test_every_activation_has_a_code():
    assert set(FEATURE_ACTIVATIONS) == activation.built_in()
    assert len(set(FEATURE_ACTIVATIONS)) == len(FEATURE_ACTIVATIONS)


def test_registered_activation():
    register_activation("cube_of_test_pyg", lambda x: x**3)
    net = Network(NeuronGraph([[0], [1]], activation="cube_of_test_pyg"))
    data: Any = to_pyg(net)
    assert data.x[:, 1].tolist() == [0.0, len(FEATURE_ACTIVATIONS)]
    assert same(from_pyg(data), net)


def test_no_memory_is_shared(rng):
    net = Network(CASES["dense"](), generator=rng)
    data: Any = to_pyg(net)
    weight, bias, edges = (
        net.weight.detach().clone(),
        net.bias.detach().clone(),
        net.graph.edge_index.clone(),
    )
    again = from_pyg(data)
    for key in ("x", "edge_index", "edge_attr", "bias", "has_bias", "activation_code", "neuron_id"):
        assert not data[key].requires_grad
        data[key].zero_()
    for own in (net, again):
        assert torch.equal(own.weight, weight)
        assert torch.equal(own.bias, bias)
        assert torch.equal(own.graph.edge_index, edges)


def test_edited_weights_and_biases_are_read(rng):
    net = Network(CASES["dense, some biases"](), generator=rng)
    data: Any = to_pyg(net)
    data.edge_attr = data.edge_attr * 2
    data.bias = data.bias + 1
    data.x = None
    again = from_pyg(data)
    assert again.graph == net.graph
    assert torch.equal(again.weight, net.weight * 2)
    assert torch.equal(again.bias, net.bias + 1)


def test_effective_weights_are_converted(rng):
    class Double(nn.Module):
        def forward(self, value):
            return 2 * value

    net = Network(CASES["dense"](), generator=rng)
    plain = net.weight.detach().clone()
    nn.utils.parametrize.register_parametrization(net, "weight", Double())
    assert torch.equal(from_pyg(to_pyg(net)).weight, 2 * plain)


def batch_nets(rng, dtypes=(torch.float32,)):
    graphs = [make() for make in CASES.values()]
    graphs += [named(["a", 1, "1", "d"]), named(None), named([4, 3, 2, 1])]
    nets = [
        hard_net(graph, rng, dtypes[i % len(dtypes)], output_transform=(None, "softmax")[i % 2])
        for i, graph in enumerate(graphs)
    ]
    return nets


def test_a_batch_comes_apart_again(rng):
    nets = batch_nets(rng)
    for order in (nets, nets[::-1]):
        batch = together([to_pyg(net) for net in order])
        assert batch.num_nodes == sum(net.graph.num_neurons for net in nets)
        assert batch.x.shape == (batch.num_nodes, 4)
        pieces = batch.to_data_list()
        assert all(same(from_pyg(p), net) for p, net in zip(pieces, order, strict=True))
        assert same(from_pyg(batch[3]), order[3])


def test_a_batch_of_several_dtypes_comes_apart_again(rng):
    nets = [
        Network(named(None), dtype=DTYPES[i % 4], generator=rng, output_transform="softmax")
        for i in range(8)
    ]
    with torch.no_grad():
        nets[0].weight[0] = torch.tensor(0x7FC12345, dtype=torch.int32).view(torch.float32)
    pieces = together([to_pyg(net) for net in nets]).to_data_list()
    assert all(same(from_pyg(p), net) for p, net in zip(pieces, nets, strict=True))


def test_a_loader_and_a_model_take_the_data(rng):
    nets = [
        Network(CASES[name](), generator=rng) for name in ("dense", "random", "no edges at all")
    ]
    model = GCNConv(4, 3)
    (batch,) = DataLoader([to_pyg(net) for net in nets], batch_size=3)  # pyright: ignore[reportArgumentType]
    out = model(batch.x, batch.edge_index, batch.edge_attr.abs())
    assert out.shape == (batch.num_nodes, 3)
    assert out.isfinite().all()
    pieces = batch.to_data_list()
    assert all(same(from_pyg(p), net) for p, net in zip(pieces, nets, strict=True))


def test_pickle_and_clone_keep_the_network(rng):
    net = hard_net(named(["a", 1, "1", "d"]), rng)
    data: Any = to_pyg(net)
    assert same(from_pyg(pickle.loads(pickle.dumps(data))), net)
    assert same(from_pyg(data.clone()), net)


def test_arguments_of_from_pyg(rng):
    net = Network(CASES["dense"](), generator=rng)
    again = from_pyg(to_pyg(net), backend="reference", dtype=torch.float64, device="cpu")
    assert again.backend == "reference"
    assert torch.equal(again.weight, net.weight.double())
    with pytest.raises(GraphError, match="dtype must be one of"):
        from_pyg(to_pyg(net), dtype=torch.int32)
    with pytest.raises(BackendError, match="'nosuch'"):
        from_pyg(to_pyg(net), backend="nosuch")


DIAMOND = torch.tensor([[0, 0, 1, 2, 4], [1, 2, 3, 3, 3]])


def foreign(**attributes):
    return Data(edge_index=DIAMOND, **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"edge_weight": torch.arange(5.0)},
        {"edge_attr": torch.arange(5.0)},
        {"edge_attr": torch.arange(5.0)[:, None]},
        {"edge_attr": torch.rand(5, 3), "edge_weight": torch.arange(5.0)},
        {"edge_attr": torch.arange(5)},
        {"edge_weight": torch.arange(5.0, requires_grad=True)},
    ],
)
def test_foreign_weights(attributes):
    net = from_pyg(foreign(**attributes))
    assert net.weight.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert net.weight.dtype == torch.float32
    assert torch.equal(net.graph.edge_index, DIAMOND)
    assert net.graph.activation == ("identity", "relu", "relu", "identity", "identity")
    assert net.graph.bias_neurons.tolist() == [1, 2, 3]
    assert {name: ids.tolist() for name, ids in net.graph.inputs.items()} == {"input": [0, 4]}
    assert {name: ids.tolist() for name, ids in net.graph.outputs.items()} == {"output": [3]}
    assert net.graph.names is None


def test_foreign_without_weights_draws_as_a_network_does():
    net = from_pyg(foreign(), generator=torch.Generator().manual_seed(3))
    expected = Network(net.graph, generator=torch.Generator().manual_seed(3))
    assert torch.equal(net.weight, expected.weight)
    assert torch.equal(net.bias, expected.bias)


def test_foreign_dtype_is_that_of_the_weights():
    assert from_pyg(foreign(edge_weight=torch.rand(5).double())).weight.dtype == torch.float64
    assert (
        from_pyg(foreign(edge_weight=torch.rand(5)), dtype=torch.float64).bias.dtype
        == torch.float64
    )


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, 5),
        ({"x": torch.zeros(7, 2)}, 7),
        ({"num_nodes": 6}, 6),
        ({"pos": torch.zeros(8, 3)}, 8),
    ],
)
def test_foreign_node_count(attributes, expected):
    net = from_pyg(foreign(**attributes))
    assert net.graph.num_neurons == expected
    assert net.graph.activation[5:] == ("identity",) * (expected - 5)


def test_foreign_edges_of_other_kinds():
    index = EdgeIndex(DIAMOND, sparse_size=(5, 5))  # pyright: ignore[reportCallIssue]
    assert torch.equal(from_pyg(Data(edge_index=index)).graph.edge_index, DIAMOND)
    array = Data(edge_index=DIAMOND.numpy(), num_nodes=5)  # pyright: ignore[reportArgumentType]
    assert torch.equal(from_pyg(array).graph.edge_index, DIAMOND)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (Data(x=torch.zeros(3, 1)), r"data must have an edge_index \(got none\)"),
        (Data(x=torch.zeros(3, 1), adj_t=torch.eye(3).to_sparse()), r"Convert data\.adj_t"),
        (Data(edge_index=torch.zeros(2, 0, dtype=torch.long), num_nodes=0), "at least one node"),
        (Data(edge_index=torch.zeros(3, 2, dtype=torch.long), num_nodes=3), r"shape \(2, E\)"),
        (Data(edge_index=torch.zeros(2, 2), num_nodes=3), "must hold integers"),
        (Data(edge_index=DIAMOND, num_nodes=4), r"data has 4 nodes, but .* edge 4 is 4 -> 3"),
        (
            Data(edge_index=DIAMOND, x=torch.zeros(2, 2)),
            r"data has 2 nodes, but .* edge 1 is 0 -> 2",
        ),
        (foreign(edge_attr=torch.zeros(5, 2)), r"edge_attr must .*\(5, 2\).* data\.edge_weight"),
        (foreign(edge_attr=torch.zeros(5, 0)), r"edge_attr must hold one weight an edge"),
        (foreign(edge_weight=torch.zeros(4)), r"edge_weight must .* \(5,\) or \(5, 1\) .*\(4,\)"),
        (foreign(edge_weight=[0.0] * 5), r"edge_weight must .* \(got list\)"),
        (foreign(edge_weight=torch.zeros(5, dtype=torch.bool)), "real numbers .*torch.bool"),
        (foreign(edge_weight=torch.zeros(5, dtype=torch.complex64)), "real numbers .*complex64"),
        (Data(edge_index=torch.tensor([[0, 1], [1, 0]])), r"cycle 0 -> 1 -> 0.*keep one\."),
        (
            Data(edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]])),
            r"cycle .*\. Remove one of these edges\.$",
        ),
        (Data(edge_index=torch.tensor([[0, 0], [1, 1]])), "edges 0 and 1 both go"),
        (Data(edge_index=torch.tensor([[0, 1], [1, 1]])), "edge 1 goes from neuron 1 to itself"),
        (HeteroData(), r"must be a torch_geometric\.data\.Data \(got HeteroData\)"),
        (None, r"\(got NoneType\)"),
        (together([foreign(num_nodes=5), foreign(num_nodes=5)]), r"Batch of 2\).*to_data_list"),
    ],
)
def test_foreign_data_that_cannot_be(data, match):
    with pytest.raises(ConversionError, match=match):
        from_pyg(data)


def spoilt(**attributes):
    graph = NeuronGraph([[0, 1, 2], [2, 3, 3]], activation="tanh")
    data: Any = to_pyg(Network(graph))
    for name, value in attributes.items():
        data[name] = value
    return data


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"graphnn": 3}, r"data\.graphnn must be a str"),
        ({"graphnn": "{"}, "header must be JSON"),
        ({"graphnn": "[]"}, "JSON object"),
        ({"edge_attr": None}, r"edge_attr must hold one weight an edge, .*\(got NoneType\)"),
        ({"edge_attr": torch.zeros(3, 2)}, r"edge_attr .* data\.edge_weight"),
        ({"bias": None}, r"data\.bias must be a Tensor"),
        ({"bias": torch.zeros(3)}, r"data\.bias must hold one floating-point number a node"),
        ({"bias": torch.zeros(4, dtype=torch.long)}, r"data\.bias .* \(got torch.int64"),
        ({"has_bias": torch.zeros(4)}, r"data\.has_bias must hold one torch.bool"),
        ({"has_bias": torch.ones(4, dtype=torch.bool)}, "an input must have no bias"),
        ({"activation_code": torch.tensor([0, 0, 2, 1])}, r"in 0 \.\.\. 1 .* node 2 is 2"),
        ({"activation_code": torch.tensor([0, 0, 1])}, r"data\.activation_code must hold one"),
        ({"activation_table": None}, r"data\.activation_table must be a list"),
        ({"activation_table": ["identity", "tanhh"]}, "got 'tanhh'.*'tanh'"),
        ({"activation_table": ["identity", ["tanh"]]}, r"must hold names \(got \['tanh'\]\)"),
        ({"names": ("a",)}, r"data\.names must be a list"),
        ({"names": ["a", "b"]}, "one label per neuron"),
        ({"names": [[], [], [], []]}, "names must be hashable"),
        ({"neuron_id": None}, r"data\.neuron_id must be a Tensor"),
        ({"neuron_id": torch.tensor([0, 2, 1, 3])}, "node 1 has neuron_id 2: .*graphnn.edit"),
        ({"edge_index": torch.tensor([[0, 1, 3], [2, 3, 1]])}, "is not a valid neuron graph"),
    ],
)
def test_own_data_that_was_spoilt(attributes, match):
    with pytest.raises(ConversionError, match=match):
        from_pyg(spoilt(**attributes))


def test_nodes_that_were_removed_or_reordered_are_noticed(rng):
    data: Any = to_pyg(Network(CASES["random"](), generator=rng))
    kept = torch.ones(40, dtype=torch.bool)
    kept[7] = False
    with pytest.raises(ConversionError, match="node 7 has neuron_id 8"):
        from_pyg(data.subgraph(kept))


@pytest.mark.parametrize("name", [2.5, True, ("a", "b"), None])
def test_names_that_cannot_be_stored(name):
    with pytest.raises(ConversionError, match=r"names must be str or int.*neuron 1"):
        to_pyg(Network(named(["a", name, "c", "d"])))


def test_what_is_no_network_is_refused():
    with pytest.raises(GraphError, match=r"net must be a graphnn\.Network \(got Linear\)"):
        to_pyg(nn.Linear(2, 2))  # pyright: ignore[reportArgumentType]


def test_mixed_dtypes_are_refused():
    net = Network(CASES["dense"]())
    net.bias.data = net.bias.data.double()
    with pytest.raises(ConversionError, match=r"one dtype .*float32 and torch\.float64"):
        to_pyg(net)


def test_random_state_is_left_alone(rng):
    net = hard_net(CASES["random"](), rng)
    before = torch.random.get_rng_state()
    from_pyg(to_pyg(net))
    assert torch.equal(torch.random.get_rng_state(), before)
