"""What is saved comes back bit for bit; what is not whole or not ours is refused."""

import json
import os
import stat
import struct

import pytest
import torch
from cases import CASES
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from graphnn import (
    BackendError,
    ConversionError,
    FormatError,
    GraphError,
    Network,
    NeuronGraph,
    register_activation,
)
from graphnn.io.safetensors import load, save

INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.fixture
def saved(path, rng):
    """A small network's file and its tensors, to be spoilt."""
    graph = NeuronGraph(
        [[0, 1, 2], [2, 3, 3]],
        names=["a", 1, "1", ""],
        activation="tanh",
        bias=[False] * 3 + [True],
    )
    save(Network(graph, generator=rng), path)
    return load_file(path)


def text(value):
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def write(path, tensors, metadata="graphnn"):
    save_file(tensors, path, metadata={"format": metadata})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_round_trip_is_exact(name, dtype, path, rng):
    net = hard_net(CASES[name](), rng, dtype)
    save(net, path)
    assert same(load(path), net)


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b", "c", "d"],
        [3, 1, 0, -(10**30)],
        ["1", 1, "", 10**19],
        ['ä\n"\\', "\0", "\ud83d\ude00", "\U0001f600"],
        ["\ud800", "None", "null", "true"],
    ],
)
def test_names_come_back_as_they_were(names, path, rng):
    net = hard_net(named(names), rng)
    save(net, path)
    again = load(path)
    assert again.graph.names == tuple(names)
    assert [type(name) for name in again.graph.names or ()] == [type(name) for name in names]
    assert same(again, net)


@pytest.mark.parametrize("transform", [None, "softmax", "log_softmax"])
def test_output_transform(transform, path, rng):
    net = hard_net(CASES["groups"](), rng, output_transform=transform)
    save(net, path)
    assert same(load(path), net)


def test_outputs_agree(path, rng):
    net = Network(CASES["random"](), generator=rng)
    save(net, path)
    x = torch.randn(7, net.in_features, generator=rng)
    assert torch.equal(load(path)(x), net(x))


def test_random_state_is_left_alone(path, rng):
    save(hard_net(CASES["dense"](), rng), path)
    before = torch.random.get_rng_state()
    load(path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_same_network_same_bytes(path, rng):
    net = hard_net(CASES["random"](), rng)
    save(net, path)
    first = path.read_bytes()
    save(load(path), path)
    assert path.read_bytes() == first


def test_arguments_of_load(path, rng):
    net = Network(CASES["dense"](), generator=rng)
    save(net.eval().requires_grad_(False), path)
    again = load(str(path), backend="reference", dtype=torch.float64)
    assert again.backend == "reference"
    assert torch.equal(again.weight, net.weight.double())
    assert again.training
    assert again.weight.requires_grad
    assert load(path, device="meta").weight.device.type == "meta"
    with torch.device("meta"):
        assert load(path).weight.device.type == "meta"


def test_wrong_arguments_are_not_the_files_fault(path, rng):
    save(Network(CASES["dense"](), generator=rng), path)
    with pytest.raises(GraphError, match="dtype must be one of"):
        load(path, dtype=torch.int32)
    with pytest.raises(BackendError, match="'nosuch'"):
        load(path, backend="nosuch")


def test_what_is_loaded_does_not_depend_on_the_file(path, rng):
    net = hard_net(CASES["dense"](), rng)
    save(net, path)
    again = load(path)
    with open(path, "r+b") as file:
        file.write(b"\0" * os.path.getsize(path))
    path.unlink()
    assert same(again, net)


def test_effective_weights_are_saved(path, rng):
    class Double(nn.Module):
        def forward(self, value):
            return 2 * value

    net = Network(CASES["dense"](), generator=rng)
    plain = net.weight.detach().clone()
    nn.utils.parametrize.register_parametrization(net, "weight", Double())
    save(net, path)
    assert torch.equal(load(path).weight, 2 * plain)


def test_a_weight_that_is_a_view_is_saved(path, rng):
    net = Network(CASES["dense"](), generator=rng)
    flat = torch.randn(2 * net.weight.numel(), generator=rng)
    net.weight.data = flat[::2]
    save(net, path)
    assert torch.equal(load(path).weight, flat[::2])


def test_registered_activation(path):
    register_activation("cube_of_test_safetensors", lambda x: x**3)
    net = Network(NeuronGraph([[0], [1]], activation="cube_of_test_safetensors"))
    save(net, path)
    assert same(load(path), net)


def test_unregistered_activation(path, saved):
    write(path, {**saved, "activations": text(["identity", "cubed"])})
    match = (
        r"entry 1 is 'cubed'.*register it first: graphnn\.register_activation\('cubed', function\)"
    )
    with pytest.raises(FormatError, match=match):
        load(path)


def test_other_readers_open_the_file(path, rng):
    net = Network(named(["a", "b", "c", "d"]), generator=rng)
    save(net, path)
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "graphnn"}
        assert file.get_tensor("edge_index").tolist() == [[0, 1, 2], [2, 3, 3]]
        assert file.get_tensor("weight").tolist() == net.weight.tolist()
        assert bytes(file.get_tensor("names")) == b'["a","b","c","d"]'


def test_file_has_the_usual_rights(path, rng):
    net = Network(CASES["dense"](), generator=rng)
    save(net, path)
    ordinary = path.with_name("ordinary")
    ordinary.touch()
    assert path.stat().st_mode == ordinary.stat().st_mode
    path.chmod(0o640)
    save(net, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_failed_save_leaves_the_old_file_alone(path, rng):
    net = hard_net(CASES["dense"](), rng)
    save(net, path)
    before = path.read_bytes()
    with pytest.raises(ConversionError, match=r"names must be str or int.*neuron 1 .*2\.5"):
        save(Network(named(["a", 2.5, "c", "d"])), path)
    broken = Network(CASES["dense"]())
    broken.bias.data = broken.bias.data.double()
    with pytest.raises(ConversionError, match=r"one dtype .*float32 and torch\.float64"):
        save(broken, path)
    with pytest.raises(GraphError, match=r"net must be a graphnn\.Network \(got Linear\)"):
        save(nn.Linear(2, 2), path)  # pyright: ignore[reportArgumentType]
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_old_file_alone(path, rng, monkeypatch):
    save(hard_net(CASES["dense"](), rng), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(hard_net(CASES["dense"](), rng), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_files_that_cannot_be_opened(tmp_path, rng):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.safetensors")
    with pytest.raises(OSError, match=r"device|directory"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        save(hard_net(CASES["dense"](), rng), tmp_path / "no" / "net.safetensors")


def test_every_shorter_file_is_refused(path, rng):
    save(hard_net(CASES["groups"](), rng), path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 23):
        path.write_bytes(whole[:size])
        with pytest.raises(
            FormatError, match=r"net\.safetensors: must be a whole safetensors file"
        ):
            load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(FormatError, match="must be a whole safetensors file"):
        load(path)


def test_every_flipped_byte_is_refused_or_gives_a_network(path, rng):
    save(hard_net(CASES["groups"](), rng), path)
    whole = path.read_bytes()
    refusals = []
    for place in range(0, len(whole), 3):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << (place % 8)
        path.write_bytes(spoilt)
        try:
            assert isinstance(load(path), Network)
        except FormatError as error:
            refusals.append(str(error))
    assert len(refusals) > len(whole) // 9
    assert all(refusal.startswith(f"{path}: ") for refusal in refusals)


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4" + b"\0" * 200, b"<graphml/>" * 20, b"\x80\4" * 50]
)
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"net\.safetensors: must be a whole safetensors file"):
        load(path)


def test_a_header_that_lies_about_size_is_refused(path):
    header = json.dumps({"weight": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(FormatError, match="must be a whole safetensors file"):
        load(path)


def test_a_pickle_is_not_loaded(path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(path.with_name("trapped")),)

    torch.save({"weight": Trap()}, path)
    with pytest.raises(FormatError, match="must be a whole safetensors file"):
        load(path)
    assert not path.with_name("trapped").exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"graphnn": "1"}])
def test_files_of_others_are_refused(path, saved, metadata):
    save_file(saved, path, metadata=metadata)
    with pytest.raises(
        FormatError, match=r"net\.safetensors: the metadata must say format 'graphnn'"
    ):
        load(path)


@pytest.mark.parametrize(
    "name",
    ["edge_index", "weight", "bias", "bias_neurons", "activation_code", "activations", "header"],
)
def test_a_missing_tensor_is_named(path, saved, name):
    del saved[name]
    write(path, saved)
    with pytest.raises(FormatError, match=rf"net\.safetensors: tensor '{name}' must exist"):
        load(path)


def test_names_may_be_missing(path, saved):
    del saved["names"]
    write(path, saved)
    assert load(path).graph.names is None


HEADER = {
    "graphnn": 1,
    "inputs": {"input": [0, 1]},
    "outputs": {"output": [3]},
    "output_transform": None,
    "dtype": "float32",
}
LONG = torch.int64


@pytest.mark.parametrize(
    ("spoilt", "match"),
    [
        ({"edge_index": torch.zeros(3, 3, dtype=LONG)}, r"'edge_index' must be .* shape \(2, \*\)"),
        (
            {"edge_index": torch.zeros(2, 3, dtype=torch.int32)},
            r"'edge_index' .* \(got torch.int32",
        ),
        ({"edge_index": torch.zeros(6, dtype=LONG)}, r"got torch.int64 of shape \(6,\)"),
        ({"weight": torch.zeros(4)}, r"'weight' must be torch.float32 of shape \(3,\).*\(4,\)"),
        ({"weight": torch.zeros(3, 1)}, r"'weight' .* \(got torch.float32 of shape \(3, 1\)\)"),
        ({"weight": torch.zeros(3).double()}, r"'weight' must be torch.float32"),
        ({"bias": torch.zeros(2)}, r"'bias' must be .* of shape \(1,\)"),
        ({"bias_neurons": torch.tensor([4])}, r"'bias_neurons' .* in 0 \.\.\. 3 .* the last 4"),
        ({"bias_neurons": torch.tensor([-1])}, r"'bias_neurons' .*the first is -1, the last -1"),
        (
            {"bias_neurons": torch.tensor([3, 2]), "bias": torch.zeros(2)},
            r"'bias_neurons' .* do not ascend",
        ),
        (
            {"bias_neurons": torch.tensor([0]), "bias": torch.zeros(1)},
            "no valid graph: an input must have no bias",
        ),
        (
            {"activation_code": torch.tensor([0, 0, 2, 1])},
            r"'activation_code' must hold places in 0 \.\.\. 1 .* neuron 2 is 2",
        ),
        ({"activation_code": torch.tensor([0, -1, 1, 1])}, "neuron 1 is -1"),
        ({"activation_code": torch.tensor([0, 1, 1, 1])}, "no valid graph: an input's activation"),
        (
            {"activation_code": torch.tensor([0, 0])},
            r"'bias_neurons' must hold ascending neuron ids in 0 \.\.\. 1",
        ),
        ({"activation_code": torch.zeros(0, dtype=LONG)}, r"'bias_neurons' .* 0 \.\.\. -1"),
        ({"activations": text("tanh")}, r"'activations' must be a JSON list \(got str\)"),
        ({"activations": text([["tanh"], 3])}, r"'activations' .* entry 0 is \['tanh'\]"),
        ({"activations": text([])}, r"'activation_code' must hold places in 0 \.\.\. -1"),
        ({"names": text(["a", "b", "c"])}, "no valid graph: names must hold one label per neuron"),
        ({"names": text(["a", "b", "a", "d"])}, "neurons 0 and 2 are both 'a'"),
        (
            {"names": text(["a", 1.5, "c", "d"])},
            r"'names' must hold str or int, .* neuron 1 is 1.5",
        ),
        ({"names": text(["a", True, "c", "d"])}, r"neuron 1 is True"),
        ({"names": text({"a": 1})}, r"'names' must be a JSON list \(got dict\)"),
        ({"names": torch.tensor([91, 34], dtype=torch.uint8)}, r"'names' must be JSON"),
        ({"names": torch.tensor([255, 254], dtype=torch.uint8)}, r"'names' must be UTF-8 text"),
        ({"names": torch.full((10**5,), 91, dtype=torch.uint8)}, r"'names' must be JSON"),
        ({"names": torch.zeros(4)}, r"'names' must be torch.uint8"),
        ({"header": text([])}, r"'header' cannot be read: .* JSON object"),
        ({"header": text({**HEADER, "graphnn": 99})}, "version 1 or lower .*Update graphnn"),
        ({"header": text({**HEADER, "dtype": "int8"})}, r"'header' cannot be read: .*'int8'"),
        ({"header": text({**HEADER, "inputs": {"input": [0.5]}})}, r"'header' .*'inputs'"),
        ({"header": text({**HEADER, "inputs": {"input": [0, 9]}})}, r"no valid graph: .* is 9"),
        ({"header": text({**HEADER, "inputs": {"input": [0, 0]}})}, "no valid graph: .* 2 times"),
        (
            {"header": text({**HEADER, "inputs": {"lambda": [0, 1]}})},
            "no valid graph: .*identifier",
        ),
        ({"header": text({**HEADER, "inputs": {"input": [2, 1]}})}, "no valid graph: an input"),
        (
            {"header": text({**HEADER, "inputs": {"input": [10**30]}})},
            "no valid graph: .* integers",
        ),
        ({"header": text({**HEADER, "outputs": {"output": []}})}, "no valid graph: .* is empty"),
        ({"edge_index": torch.tensor([[0, 0, 2], [2, 2, 3]])}, "no valid graph: .* edges 0 and 1"),
        ({"edge_index": torch.tensor([[0, 3, 2], [2, 2, 3]])}, "no valid graph: .* the cycle"),
        ({"edge_index": torch.tensor([[0, 2, 2], [2, 2, 3]])}, "no valid graph: .* to itself"),
        (
            {"edge_index": torch.tensor([[0, 1, 2], [2, 3, 4]])},
            "no valid graph: .* edge 2 is 2 -> 4",
        ),
    ],
)
def test_a_spoilt_tensor_is_named(path, saved, spoilt, match):
    write(path, {**saved, **spoilt})
    with pytest.raises(
        FormatError, match=rf"net\.safetensors: (tensor |the tensors make ).*({match})"
    ):
        load(path)
