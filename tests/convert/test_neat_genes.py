"""neat-python's JSON export: read whole, or refused with the place in the file."""

import copy
import json

import neat
import pytest
import torch
from neat.activations import relu_activation as relu
from neat.activations import tanh_activation as tanh
from neat.aggregations import sum_aggregation as add
from neat.export import export_network_json

from graphnn import ConversionError, FormatError, from_neat


def evolved():
    """Two outputs, one of which feeds the other, a constant, and a response."""
    evaluations = [
        (3, tanh, add, 0.5, 1.0, []),
        (5, relu, add, 0.1, -2.0, [(-1, 1.5), (3, 0.75)]),
        (0, tanh, add, -0.3, 1.0, [(5, 2.0), (-2, 0.1)]),
        (1, tanh, add, 0.0, 0.5, [(0, 1.0), (-1, -1.0)]),
    ]
    return neat.nn.FeedForwardNetwork([-1, -2], [0, 1], evaluations)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "evolved.json"
    export_network_json(evolved(), path, {"fitness": 3.9})
    return path


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_an_export_agrees(path, kind, rng):
    net = from_neat(kind(path), node_names={0: "left"}, dtype=torch.float64)
    assert net.graph.names == (-1, -2, 3, 5, "left", 1)
    x = torch.randn(20, 2, generator=rng, dtype=torch.float64)
    network = evolved()
    expected = torch.tensor([network.activate(row) for row in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


def test_disabled_connections_are_left_out(path):
    fields = json.loads(path.read_text())
    fields["connections"][0]["enabled"] = False
    path.write_text(json.dumps(fields))
    assert from_neat(path).graph.num_edges == 5


CHANGES = [
    ("format_version", "2.0", r"format_version must be 1\.x \(got '2\.0'\)"),
    ("format_version", None, r"the export must have a 'format_version' of type str"),
    ("network_type", 3, r"'network_type' of type str \(got int\)"),
    ("topology", [], r"'topology' of type dict \(got list\)"),
    ("topology.input_keys", [-1, "b"], r"input_keys must hold integers \(got 'b'\)"),
    ("topology.output_keys", None, r"topology must have a 'output_keys'"),
    ("nodes", {}, r"the export must have a 'nodes' of type list"),
    ("nodes.1", 4, r"nodes\[1\] must have a 'id' of type int \(got 4\)"),
    ("nodes.1.id", 3, r"nodes\[1\] must have its own id \(got 3 again\)"),
    ("nodes.1.id", True, r"nodes\[1\] must have a 'id' of type int \(got bool\)"),
    ("nodes.1.bias", "low", r"nodes\[1\], 'bias' must be a finite number \(got 'low'\)"),
    ("nodes.1.response", float("nan"), r"nodes\[1\], 'response' must be a finite .*got nan"),
    ("nodes.1.activation", "relu", r"nodes\[1\] must have a 'activation' of type dict"),
    ("nodes.1.activation.name", 1, r"nodes\[1\], 'activation' must have a 'name' of type str"),
    ("connections.2.weight", None, r"connections\[2\], 'weight' must be a finite number"),
    ("connections.2.weight", float("inf"), r"connections\[2\], 'weight' must be .*got inf"),
    ("connections.2.from", 1.5, r"connections\[2\] must have a 'from' of type int \(got float\)"),
    ("connections.2.enabled", 1, r"connections\[2\] must have a 'enabled' of type bool"),
]


@pytest.mark.parametrize(("place", "value", "message"), CHANGES)
def test_a_spoilt_export_is_refused(path, place, value, message):
    fields = json.loads(path.read_text())
    *way, last = (int(part) if part.isdigit() else part for part in place.split("."))
    owner = fields
    for part in way:
        owner = owner[part]
    owner[last] = copy.copy(value)
    path.write_text(json.dumps(fields))
    with pytest.raises(FormatError, match=message) as refused:
        from_neat(path)
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\x00\xff", b"{", b"[1, 2]", b"[" * 100_000])
def test_what_is_no_export_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(FormatError) as refused:
        from_neat(path)
    assert str(refused.value).startswith(f"{path}: ")


def test_networks_that_keep_a_state_are_refused(path):
    evaluations = [(0, tanh, add, -0.3, 1.0, [(0, 2.0), (-2, 0.1)])]
    export_network_json(neat.nn.RecurrentNetwork([-1, -2], [0], evaluations), path)
    with pytest.raises(ConversionError, match=r"must be 'feedforward'.*got 'recurrent'"):
        from_neat(path)


def test_functions_that_cannot_be_are_refused_by_file_and_node(path):
    def squash(z):
        return z

    evaluations = [(0, squash, add, -0.3, 1.0, [(-1, 2.0)])]
    export_network_json(neat.nn.FeedForwardNetwork([-1], [0], evaluations), path)
    with pytest.raises(ConversionError, match=r"evolved\.json: node 0 .*your own called 'squash'"):
        from_neat(path)
    assert from_neat(path, activations={"squash": "identity"})(torch.ones(1)).item() == (
        pytest.approx(1.7)
    )


def test_a_cycle_in_a_file_is_named(path):
    fields = json.loads(path.read_text())
    fields["connections"].append({"from": 1, "to": 5, "weight": 1.0, "enabled": True})
    path.write_text(json.dumps(fields))
    with pytest.raises(ConversionError, match=r"evolved\.json .*cycle"):
        from_neat(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    for place in (tmp_path / "none.json", tmp_path):
        with pytest.raises(OSError, match=str(place)):
            from_neat(place)
