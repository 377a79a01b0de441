import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import graphnn

LIMITS = {torch.float32: 1e-5, torch.float64: 1e-11}
ACTIVATIONS = [
    "identity", "relu", "relu6", "leaky_relu(0.2)", "leaky_relu(-0.5)", "elu(0.5)", "selu",
    "celu(1.5)", "gelu", "gelu_tanh", "silu", "mish", "softplus", "softplus(2, 3)", "softsign",
    "sigmoid", "tanh", "clamp(-0.5, 0.25)", "hardsigmoid", "hardswish", "sin", "gauss", "abs",
    "square",
]  # fmt: skip


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def drawn(graph, rng, dtype=torch.float32, transform=None):
    net = graphnn.Network(
        graph, dtype=dtype, generator=rng, backend="reference", output_transform=transform
    )
    with torch.no_grad():
        net.bias.uniform_(-1, 1, generator=rng)
    return net


def check(net, path, rng, batch=5):
    """Writes, runs by onnxruntime, compares, and reads again."""
    graphnn.write_onnx(net, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    dtype = net.weight.dtype
    xs = {
        name: 3 * torch.randn(batch, ids.numel(), generator=rng, dtype=dtype)
        for name, ids in net.graph.inputs.items()
    }
    outputs = net(**xs)
    expected = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    run = session(path)
    actual: Any = run.run(None, {name: x.numpy() for name, x in xs.items()})
    for own, other in zip(expected, actual, strict=True):
        assert other.shape == tuple(own.shape)
        error = np.abs(own.detach().numpy() - other).max(initial=0)
        assert error <= LIMITS[dtype] * np.abs(own.detach().numpy()).max(initial=1e-30)
    again = graphnn.read_onnx(path)
    assert again.graph == net.graph
    assert again.output_transform == net.output_transform
    assert torch.equal(again.weight, net.weight)
    assert torch.equal(again.bias, net.bias)
    assert again.weight.dtype == dtype
    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_agrees_with_onnxruntime(tmp_path, rng, activation, dtype):
    if activation == "gelu" and dtype == torch.float64:
        pytest.skip("onnxruntime has no Erf in float64")
    graph = graphnn.NeuronGraph([[0, 0, 0, 1, 2], [1, 2, 3, 3, 3]], activation=activation)
    check(drawn(graph, rng, dtype), tmp_path / "net.onnx", rng, batch=40)


def random_graph(rng, num_neurons=60, **arguments):
    """A DAG with skips, constants, all fan-ins from 0 to 20, and ids in no order."""
    order = torch.randperm(num_neurons, generator=rng).tolist()
    edges = []
    for place in range(5, num_neurons):
        fan_in = int(torch.randint(0, min(place, 20) + 1, (), generator=rng))
        sources = torch.randperm(place, generator=rng)[:fan_in].tolist()
        edges += [(order[source], order[place]) for source in sources]
    edges = torch.tensor(edges)[torch.randperm(len(edges), generator=rng)].t()
    return graphnn.NeuronGraph(edges, num_neurons, inputs=order[:5], **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_random_graphs_agree(tmp_path, dtype, seed):
    rng = torch.Generator().manual_seed(seed)
    graph = random_graph(rng)
    activation = [["tanh", "sin", "relu"][i % 3] for i in range(60)]
    for neuron in graph.input_ids.tolist():
        activation[neuron] = "identity"
    bias = torch.rand(60, generator=rng) < 0.5
    bias[graph.input_ids] = False
    arguments = graph.arguments() | {"activation": activation, "bias": bias}
    check(drawn(graphnn.NeuronGraph(**arguments), rng, dtype), tmp_path / "net.onnx", rng)


def test_groups_keep_their_names_also_where_an_output_is_an_input(tmp_path, rng):
    graph = graphnn.NeuronGraph(
        [[0, 1, 2, 0], [3, 3, 4, 4]],
        inputs={"left": [1, 0], "both": [2]},
        outputs={"weight": [4, 3, 4], "both": [2], "last": [3, 0]},
        names=["a", "b", "ü", 4, "\n"],
    )
    run = check(drawn(graph, rng, transform="log_softmax"), tmp_path / "net.onnx", rng)
    assert [value.name for value in run.get_inputs()] == ["left", "both"]
    assert [value.name for value in run.get_outputs()] == ["weight", "both.output", "last"]
    assert run.get_inputs()[0].shape == ["batch", 2]


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_every_batch_size_runs(tmp_path, rng, batch):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(-1))
    net = graphnn.from_sequential(model, backend="reference")
    check(net, tmp_path / "net.onnx", rng, batch)


def test_a_network_without_edges_agrees(tmp_path, rng):
    graph = graphnn.NeuronGraph(
        torch.empty(2, 0, dtype=torch.int64), 3, inputs=[0], outputs=[2, 0, 1], activation="tanh"
    )
    check(drawn(graph, rng), tmp_path / "net.onnx", rng)


def test_a_convolution_agrees_and_its_effective_weights_are_stored(tmp_path, rng):
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten())
    net = graphnn.from_module(model, torch.ones(1, 2, 6, 6), backend="reference")
    check(net, tmp_path / "net.onnx", rng)


def test_the_size_grows_with_the_edges(tmp_path, rng):
    sizes = []
    for width in (400, 1600):
        source = torch.randint(0, width, (width * 4,), generator=rng)
        target = width + torch.arange(width).repeat_interleave(4)
        edges = torch.stack([source, target]).unique(dim=1)
        net = drawn(graphnn.NeuronGraph(edges, 2 * width, inputs=range(width)), rng)
        path = tmp_path / f"{width}.onnx"
        graphnn.write_onnx(net, path)
        sizes.append(path.stat().st_size)
    assert sizes[1] < 5 * sizes[0]


def test_a_dense_level_is_one_matrix_product(tmp_path, rng):
    net = graphnn.from_sequential(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))
    path = tmp_path / "net.onnx"
    graphnn.write_onnx(net, path)
    operations = [node.op_type for node in onnx.load(path).graph.node]
    assert operations.count("MatMul") == 2


@pytest.mark.parametrize(
    "edges",
    [[[0, 1, 0, 1], [2, 2, 3, 3]], [[0, 1, 1], [2, 2, 3]]],
    ids=["a complete level", "fan-ins that differ"],
)
def test_every_stored_constant_is_read(tmp_path, rng, edges):
    path = tmp_path / "net.onnx"
    check(drawn(graphnn.NeuronGraph(edges, activation="relu"), rng), path, rng)
    stored = onnx.load(path).graph
    read = {name for node in stored.node for name in node.input}
    assert {own.name for own in stored.initializer} - read == set()


def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path, rng):
    path = tmp_path / "net.onnx"
    graph = graphnn.NeuronGraph([[0], [1]])
    with pytest.raises(graphnn.ConversionError, match="float32 or float64"):
        graphnn.write_onnx(drawn(graph, rng, torch.bfloat16), path)
    graphnn.register_activation("onnx_cube", lambda x: x**3)
    cube = graphnn.NeuronGraph([[0], [1]], activation="onnx_cube")
    with pytest.raises(graphnn.ConversionError, match="'onnx_cube' must be built in"):
        graphnn.write_onnx(drawn(cube, rng), path)
    linear: Any = nn.Linear(2, 2)
    with pytest.raises(graphnn.GraphError, match=r"graphnn\.Network"):
        graphnn.write_onnx(linear, path)
    assert list(tmp_path.iterdir()) == []


def test_the_metadata_is_json_that_others_can_read(tmp_path, rng):
    path = tmp_path / "net.onnx"
    graphnn.write_onnx(drawn(graphnn.NeuronGraph([[0], [1]], activation="tanh"), rng), path)
    stored = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(stored["graphnn.activations"]) == ["identity", "tanh"]
    assert json.loads(stored["graphnn"])["inputs"] == {"input": [0]}
