"""ONNX models as networks."""

from __future__ import annotations

import base64
import json
import os
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn.assembly.finishing import make_graph, make_network
from graphnn.assembly.merging import merge
from graphnn.assembly.neurons import Neurons
from graphnn.errors import ConversionError, FormatError, GraphNNError
from graphnn.io.onnx_operations import Operations, Softmax
from graphnn.io.onnx_writer import BIAS, WEIGHT
from graphnn.network import Network
from graphnn.record import Header, Record


def read_onnx(
    path: str | os.PathLike[str],
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Network:
    """Reads an ONNX model as a network.

    A file of `write_onnx` gives the same network again. Of others every element of a sample is a
    neuron, as `from_module` has it: inputs and outputs are flattened row-major, edges that share a
    number of a kernel are tied, BatchNormalization is folded. Initializers that are the weights or
    the biases of Gemm, MatMul, Conv and Add are trained; other constants stay.

    Args:
        path: The file. Inputs are (batch, *), with all sizes but the batch fixed.
        backend: Of the network.
        dtype: Of the parameters; default: as stored.
        device: Of the parameters; default: torch's default device.

    Returns:
        The network, its groups called as the model's inputs and outputs are, with other characters
        than letters, digits and underscores replaced by underscores.

    Raises:
        FormatError: The file is no ONNX model, or holds an invalid network.
        ConversionError: An operation of the model is no neuron graph; it is named.
        OSError: The file cannot be read.
        GraphError: `dtype` is none that a network can have.
        BackendError: There is no such backend.

    Example:
        >>> graphnn.read_onnx("no.onnx")
        Traceback (most recent call last):
        FileNotFoundError: ...
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(os.fspath(path), load_external_data=True)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: must be a whole ONNX model ({error}).") from None
    properties = {entry.key: entry.value for entry in model.metadata_props}
    settings = {"backend": backend, "dtype": dtype, "device": device}
    stored = {value.name: value for value in model.graph.initializer}
    if "graphnn" in properties and WEIGHT in stored and BIAS in stored:
        try:
            record = _stored_record(properties, stored)
            # Made here, so that only what the file holds is the file's fault.
            _ = record.graph
        except GraphNNError as error:
            raise FormatError(f"{path}: {error}") from error
        _check_sizes(record, path)
        return record.network(**settings)
    try:
        return _interpreted(model, settings)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error


def _check_sizes(record: Record, path: str | os.PathLike[str]) -> None:
    graph = record.graph
    for name, count in ((WEIGHT, graph.num_edges), (BIAS, graph.bias_neurons.numel())):
        value = record.weight if name == WEIGHT else record.bias
        if tuple(value.shape) != (count,):
            raise FormatError(
                f"{path}: the initializer {name!r} must have shape ({count},) (got "
                f"{tuple(value.shape)}). The file was changed after graphnn wrote it."
            )


def _unpacked(text: str) -> np.ndarray:
    name, _, data = text.partition(":")
    if name not in ("int32", "int64"):
        raise ValueError(f"integers of type {name!r}")
    raw = zlib.decompress(base64.b64decode(data, validate=True))
    return np.frombuffer(raw, name).astype(np.int64)


def _stored_record(properties: dict[str, str], stored: dict[str, Any]) -> Record:
    """The columns that `write_onnx` has stored."""
    from onnx import numpy_helper

    try:
        edges = _unpacked(properties["graphnn.edges"]).reshape(2, -1)
        codes = _unpacked(properties["graphnn.activation_code"])
        biased = np.zeros(codes.size, bool)
        biased[_unpacked(properties["graphnn.biased"])] = True
        table = json.loads(properties["graphnn.activations"])
        activation = tuple(table[code] for code in codes.tolist())
        names = json.loads(properties["graphnn.names"])
        names = None if names is None else tuple(names)
    except (KeyError, ValueError, IndexError, TypeError, zlib.error, RecursionError) as error:
        raise FormatError(
            f"the metadata that graphnn.write_onnx stores must be whole ({error!r})."
        ) from None
    weight, bias = (
        torch.from_numpy(np.array(numpy_helper.to_array(stored[name]))) for name in (WEIGHT, BIAS)
    )
    header = Header.from_json(properties["graphnn"])
    return Record(torch.from_numpy(edges), weight, activation, biased, bias, names, header)


@torch.no_grad()
def _interpreted(model: Any, settings: dict[str, Any]) -> Network:
    """Performs the model's operations on neurons."""
    operations = Operations(model)
    graph = model.graph
    initial = {value.name for value in graph.initializer}
    inputs = {}
    for value in graph.input:
        if value.name not in initial:
            inputs[value.name] = operations.input(value.name, _sample_shape(value))
    for node in graph.node:
        try:
            operations.perform(node)
        except GraphNNError as error:
            what = f"{node.op_type} {node.name or node.output[0]!r}"
            raise ConversionError(f"{what} {str(error).removesuffix('.')}.") from error
    outputs, transform = _outputs(operations, [value.name for value in graph.output])
    assembly = operations.assembly
    merged = merge(assembly, torch.cat(list(outputs.values())))
    wiring = make_graph(merged, _named(inputs), _named(outputs))
    dtype = operations.dtype if settings["dtype"] is None else settings["dtype"]
    device = torch.get_default_device() if settings["device"] is None else settings["device"]
    return make_network(
        wiring, merged, assembly.entries, dtype,
        device=device, backend=settings["backend"], output_transform=transform,
    )  # fmt: skip


def _sample_shape(value: Any) -> tuple[int, ...]:
    dims = list(value.type.tensor_type.shape.dim)
    sizes = [dim.dim_value for dim in dims]
    if not sizes or any(size < 1 for size in sizes[1:]):
        shown = ", ".join(dim.dim_param or str(dim.dim_value or "?") for dim in dims)
        raise ConversionError(
            f"input {value.name!r} must have shape (batch, *), with all sizes but the batch fixed "
            f"(got ({shown})). Export the model with fixed sizes."
        )
    return tuple(sizes[1:])


def _outputs(operations: Operations, names: list[str]) -> tuple[dict[str, Tensor], str | None]:
    outputs, transforms = {}, set()
    for name in names:
        value = operations.values[name]
        transforms.add(value.transform if isinstance(value, Softmax) else None)
        neurons = value.neurons if isinstance(value, Softmax) else value
        if not isinstance(neurons, Neurons):
            raise ConversionError(f"output {name!r} must depend on the inputs.")
        outputs[name] = neurons.sample.reshape(-1)
    if len(transforms) > 1:
        raise ConversionError(
            "a softmax at the end must be on every output, since a network has one output "
            "transform for all groups."
        )
    return outputs, next(iter(transforms))


def _named(groups: dict[str, Any]) -> dict[str, Tensor]:
    """The groups, called by identifiers."""
    named = {}
    for name, value in groups.items():
        text = "".join(c if c.isalnum() else "_" for c in name).lstrip("_") or "group"
        text = f"group_{text}" if text[0].isdigit() else text
        while text in named:
            text += "_"
        named[text] = value.sample.reshape(-1) if isinstance(value, Neurons) else value
    return named
