"""Networks in safetensors files: flat tensors that any safetensors reader opens; never pickle.

A file holds, with ``"format": "graphnn"`` in its metadata:

- ``edge_index`` (2, E) int64, ``weight`` (E,) and ``bias`` (K,) in the network's dtype,
- ``bias_neurons`` (K,) int64, ascending: whose biases these are,
- ``activation_code`` (N,) int64: each neuron's place in the list ``activations``,
- ``header``, ``activations`` and, where neurons have names, ``names``: UTF-8 JSON as uint8. They
  are tensors because the format bounds the size of its metadata.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from graphnn.activation import resolve
from graphnn.errors import ConversionError, FormatError, GraphError
from graphnn.io.atomic import replacing
from graphnn.network import Network
from graphnn.record import Header, Record

_FORMAT = "graphnn"
# Names may hold lone surrogates, which strict UTF-8 refuses.
_SURROGATES = "surrogatepass"


def save(net: Network, path: str | os.PathLike[str]) -> None:
    """Writes a network to a safetensors file; `load` gives it back bit for bit.

    The file appears whole or not at all. Of a parametrized network the effective weights and
    biases are stored. Not stored: backend, device, training mode and what requires gradients.

    Args:
        net: The network; its names must be str or int.
        path: The file; replaced if it exists.

    Raises:
        ConversionError: A name is neither a str nor an int, or weight and bias differ in dtype.
        GraphError: `net` is no Network.
        OSError: The file cannot be written.

    Example:
        >>> net = graphnn.from_edges([("a", "y", 2.0), ("b", "y", -0.1)])
        >>> path = getfixture("tmp_path") / "net.safetensors"
        >>> graphnn.save(net, path)
        >>> again = graphnn.load(path)
        >>> again.graph == net.graph, torch.equal(again.weight, net.weight)
        (True, True)
    """
    if not isinstance(net, Network):
        raise GraphError(f"net must be a graphnn.Network (got {type(net).__name__}).")
    record = Record.of(net)
    graph = net.graph.to("cpu")
    tensors = {
        "edge_index": record.edge_index,
        "weight": record.weight.contiguous(),
        "bias": record.bias.contiguous(),
        "bias_neurons": graph.bias_neurons,
        "activation_code": graph.activation_code,
        "activations": _text([entry.name for entry in graph.activation_table]),
        "header": _bytes(record.header.to_json()),
    }
    if record.names is not None:
        tensors["names"] = _text(record.names)
    with replacing(path) as temporary:
        # safetensors makes files that only their owner may read; this one gets the usual rights.
        temporary.touch()
        permissions = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata={"format": _FORMAT})
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written ({error})") from error
        temporary.chmod(permissions)


def load(
    path: str | os.PathLike[str],
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Network:
    """Reads a network that `save` wrote.

    Args:
        path: The file.
        backend: Of the network.
        dtype: Of the parameters; default: as stored.
        device: Of the parameters; default: torch's default device.

    Returns:
        The network, in training mode, its parameters requiring gradients.

    Raises:
        FormatError: The file was cut short, is not one of `save`'s or does not hold a valid graph;
            or an activation of the file is not registered.
        OSError: The file cannot be read.
        GraphError: `dtype` is none that a network can have.
        BackendError: There is no such backend.

    Example:
        >>> graphnn.load("no.safetensors")
        Traceback (most recent call last):
        FileNotFoundError: ...
    """
    # What the system says of a file that cannot be opened; safetensors does not name it.
    with open(path, "rb"):
        pass
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            record = _Reader(file, path).read()
    except SafetensorError as error:
        raise FormatError(
            f"{path}: must be a whole safetensors file ({error}). It was cut short, or it is of "
            "another format."
        ) from None
    return record.network(backend, dtype, device)


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text, "utf-8", _SURROGATES), dtype=torch.uint8)


def _text(value: Any) -> Tensor:
    # Unescaped, because JSON's escapes join two lone surrogates into one character.
    return _bytes(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


class _Reader:
    """Reads one open file; every refusal names the file and the tensor."""

    def __init__(self, file: Any, path: str | os.PathLike[str]) -> None:
        self.file = file
        self.path = path
        self.names = frozenset(file.keys())

    def read(self) -> Record:
        metadata = self.file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise FormatError(
                f"{self.path}: the metadata must say format {_FORMAT!r}, as graphnn.save writes it "
                f"(got {metadata.get('format')!r}). The file holds something else."
            )
        header = self.header()
        edge_index = self.tensor("edge_index", torch.int64, (2, None))
        weight = self.tensor("weight", header.dtype, (edge_index.shape[1],))
        code = self.tensor("activation_code", torch.int64, (None,))
        bias_neurons = self.tensor("bias_neurons", torch.int64, (None,))
        bias = self.tensor("bias", header.dtype, (bias_neurons.numel(),))
        record = Record(
            edge_index=edge_index,
            weight=weight,
            activation=self.activation(code),
            biased=self.biased(bias_neurons, code.numel()),
            bias=bias,
            names=self.neuron_names(),
            header=header,
        )
        try:
            _ = record.graph
        except GraphError as error:
            raise FormatError(f"{self.path}: the tensors make no valid graph: {error}") from None
        return record

    def refuse(self, name: str, why: str) -> FormatError:
        return FormatError(f"{self.path}: tensor {name!r} {why}")

    def tensor(self, name: str, dtype: torch.dtype, shape: tuple[int | None, ...]) -> Tensor:
        if name not in self.names:
            found = ", ".join(sorted(self.names)) or "none"
            raise self.refuse(name, f"must exist (the file holds {found}).")
        read = self.file.get_tensor(name)
        fits = read.dim() == len(shape) and all(
            want is None or size == want for size, want in zip(read.shape, shape, strict=True)
        )
        if read.dtype != dtype or not fits:
            wanted = ", ".join("*" if size is None else str(size) for size in shape)
            raise self.refuse(
                name,
                f"must be {dtype} of shape ({wanted}{',' if len(shape) == 1 else ''}) (got "
                f"{read.dtype} of shape {tuple(read.shape)}).",
            )
        return read

    def text(self, name: str) -> str:
        try:
            return (
                self.tensor(name, torch.uint8, (None,))
                .numpy()
                .tobytes()
                .decode("utf-8", _SURROGATES)
            )
        except UnicodeDecodeError as error:
            raise self.refuse(name, f"must be UTF-8 text ({error}).") from None

    def json_list(self, name: str) -> list[Any]:
        text = self.text(name)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.refuse(name, f"must be JSON ({error}).") from None
        if not isinstance(value, list):
            raise self.refuse(name, f"must be a JSON list (got {type(value).__name__}).")
        return value

    def header(self) -> Header:
        try:
            return Header.from_json(self.text("header"))
        except ConversionError as error:
            raise self.refuse("header", f"cannot be read: {error}") from None

    def activation(self, code: Tensor) -> tuple[str, ...]:
        table = self.json_list("activations")
        for place, name in enumerate(table):
            try:
                resolve(name)
            except (GraphError, TypeError) as error:
                raise self.refuse(
                    "activations",
                    f"must hold known activations, but entry {place} is {name!r}. If it is your "
                    f"own, register it first: graphnn.register_activation({name!r}, function). "
                    f"({error})",
                ) from None
        outside = (code < 0) | (code >= len(table))
        if outside.any():
            neuron = int(outside.nonzero()[0])
            raise self.refuse(
                "activation_code",
                f"must hold places in 0 ... {len(table) - 1} of 'activations', but that of neuron "
                f"{neuron} is {int(code[neuron])}.",
            )
        return tuple(table[c] for c in code.tolist())

    def biased(self, bias_neurons: Tensor, num_neurons: int) -> np.ndarray:
        if bias_neurons.numel():
            low, high = int(bias_neurons[0]), int(bias_neurons[-1])
            ascends = bool((bias_neurons.diff() > 0).all())
            if low < 0 or high >= num_neurons or not ascends:
                raise self.refuse(
                    "bias_neurons",
                    f"must hold ascending neuron ids in 0 ... {num_neurons - 1} (the first is "
                    f"{low}, the last {high}, they {'ascend' if ascends else 'do not ascend'}).",
                )
        biased = np.zeros(num_neurons, bool)
        biased[bias_neurons.numpy()] = True
        return biased

    def neuron_names(self) -> tuple[str | int, ...] | None:
        if "names" not in self.names:
            return None
        names = self.json_list("names")
        for neuron, name in enumerate(names):
            if type(name) not in (str, int):
                raise self.refuse(
                    "names", f"must hold str or int, but that of neuron {neuron} is {name!r}."
                )
        return tuple(names)
