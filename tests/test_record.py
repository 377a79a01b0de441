"""What formats store of a network, and what of it may be wrong."""

import json

import pytest
import torch

import graphnn
from graphnn.record import Header, Record


def network(names=None, **more):
    graph = graphnn.NeuronGraph(
        [[0, 1, 0], [2, 2, 3]],
        inputs={"a": [1], "b": [0]},
        outputs={"c": [3, 2, 3]},
        activation=["identity", "identity", "relu", "elu(0.5)"],
        bias=[False, False, False, True],
        names=names,
    )
    return graphnn.Network(graph, [1.0, -0.0, torch.inf], [0.5], **more)


@pytest.mark.parametrize("names", [None, list("wxyz"), [3, 1, 2, 0], ["a", 1, "1", 2]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_record_gives_the_network_again(names, dtype):
    net = network(names, output_transform="softmax", dtype=dtype)
    again = Record.of(net).network(backend="reference")
    assert again.graph == net.graph
    assert (again.output_transform, again.backend) == ("softmax", "reference")
    assert again.weight.dtype == dtype
    assert torch.equal(again.weight, net.weight)
    assert torch.equal(again.bias, net.bias)
    assert Record.of(net).network(dtype=torch.float64).bias.dtype == torch.float64


def test_record_goes_to_the_default_device():
    record = Record.of(network())
    with torch.device("meta"):
        assert record.network().weight.is_meta
    assert record.network().weight.device.type == "cpu"


@pytest.mark.parametrize(
    ("names", "kinds"),
    [(None, None), (list("wxyz"), "str"), ([3, 1, 2, 0], "int"), (["a", 1, "1", 2], "sisi")],
)
def test_header_survives_json(names, kinds):
    header = Header.of(network(names))
    again = Header.from_json(header.to_json())
    assert vars(again) == vars(header)
    assert again.names == kinds
    assert list(again.inputs) == ["a", "b"]
    assert again.outputs == {"c": [3, 2, 3]}


def test_header_without_name_kinds_is_read():
    fields = json.loads(Header.of(network()).to_json())
    del fields["names"]
    assert Header.from_json(json.dumps(fields)).names is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graphnn": None}, "JSON object with a 'graphnn' version"),
        ({"graphnn": 2}, r"version 1 or lower \(got 2\)"),
        ({"inputs": {"a": [True]}}, "'inputs' must map group names"),
        ({"outputs": {"a": 3}}, "'outputs' must map group names"),
        ({"output_transform": "sum"}, "'sum'"),
        ({"output_transform": []}, r"\[\]"),
        ({"dtype": 32}, "32"),
        ({"dtype": "int8"}, "'int8'"),
        ({"names": "strings"}, "'names' must be null"),
        ({"names": ["s"]}, "'names' must be null"),
    ],
)
def test_wrong_headers_are_refused(change, message):
    fields = json.loads(Header.of(network()).to_json())
    with pytest.raises(graphnn.ConversionError, match=message):
        Header.from_json(json.dumps({**fields, **change}))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", "NaN"])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(graphnn.ConversionError, match="header must be"):
        Header.from_json(text)


@pytest.mark.parametrize("name", [1.5, None, True, ("a",), b"a"], ids=repr)
def test_names_that_no_format_holds_are_refused(name):
    for make in (Record.of, Header.of):
        with pytest.raises(graphnn.ConversionError, match=r"names must be str or int.*neuron 2"):
            make(network(["a", "b", name, "d"]))


def test_two_dtypes_are_refused():
    net = network()
    net.bias.data = net.bias.data.double()
    with pytest.raises(graphnn.ConversionError, match=r"must have one dtype.*float32.*float64"):
        Record.of(net)
