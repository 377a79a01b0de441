"""Networks as ONNX models that onnxruntime runs level by level."""

from __future__ import annotations

import base64
import json
import os
import zlib
from typing import Any

import numpy as np
import torch

from graphnn.errors import ConversionError, GraphError
from graphnn.io.atomic import replacing
from graphnn.io.onnx_activations import write_activation
from graphnn.levels import Level
from graphnn.network import Network
from graphnn.plan import build_plan
from graphnn.record import Record

WEIGHT, BIAS = "parameters.weight", "parameters.bias"
_OPSET = 18
_IR_VERSION = 9
_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
# A level with more fan-ins than this has them rounded up to powers of two.
_MANY_FAN_INS = 8
# protobuf cannot hold more in one message.
_LARGEST_FILE = 2**31 - 1


def write_onnx(net: Network, path: str | os.PathLike[str]) -> None:
    """Writes a network as an ONNX model; `read_onnx` gives it back bit for bit.

    The model takes (batch, n) for every input group and gives (batch, n) for every output group,
    under the groups' names. The parameters are the initializers ``parameters.weight`` (E,) and
    ``parameters.bias`` (K,), in graph order. A level that is an nn.Linear is one MatMul. Other
    levels gather, for all neurons of one fan-in at once, the values of their sources and multiply
    them by the neurons' weights, so that the size grows with the number of edges; a level of more
    than 8 fan-ins has them rounded up to powers of two. The wiring is stored in the model's
    metadata.

    Args:
        net: Of float32 or float64; its names must be str or int. onnxruntime's CPU has no gelu in
            float64.
        path: The file; replaced if it exists.

    Raises:
        ConversionError: The dtype is another one, an activation is not built in, a name is neither
            a str nor an int, or the model would have over 2 GB.
        GraphError: `net` is no Network.
        OSError: The file cannot be written.

    Source: Open Neural Network Exchange, operator set 18 (https://onnx.ai/onnx/operators).

    Example:
        >>> net = graphnn.from_edges([("a", "y", 2.0), ("b", "y", -0.1)])
        >>> path = getfixture("tmp_path") / "net.onnx"
        >>> graphnn.write_onnx(net, path)
        >>> graphnn.read_onnx(path).graph == net.graph
        True
    """
    if not isinstance(net, Network):
        raise GraphError(f"net must be a graphnn.Network (got {type(net).__name__}).")
    record = Record.of(net)
    if record.header.dtype not in _DTYPES:
        raise ConversionError(
            f"net must be of float32 or float64 to be written to ONNX (got {record.header.dtype}). "
            "Convert a copy with .float()."
        )
    model = _Writer(net, record).model()
    size = model.ByteSize()
    if size > _LARGEST_FILE:
        raise ConversionError(
            f"an ONNX file must have less than 2 GB, but this has {size / 1e9:.1f}. "
            "Write .safetensors instead."
        )
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def packed(array: np.ndarray) -> str:
    """Integers as text."""
    narrow = np.int32 if array.size == 0 or array.max() < 2**31 else np.int64
    data = zlib.compress(array.astype(narrow).tobytes(), 1)
    return f"{np.dtype(narrow).name}:{base64.b64encode(data).decode()}"


class _Writer:
    """Builds a model, one level after the other; values are neuron-major, (n, batch)."""

    def __init__(self, net: Network, record: Record) -> None:
        self._net = net
        self._record = record
        self._dtype = _DTYPES[record.header.dtype]
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._numbers: dict[float, str] = {}
        self._axis: str | None = None
        self._plan = build_plan(net.graph, "cpu")

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation and gives the name of its result."""
        from onnx import helper

        # Groups are called by identifiers, so that a dot keeps all other names apart from theirs.
        result = f"{operation.lower()}.{len(self._nodes)}"
        self._nodes.append(helper.make_node(operation, inputs, [result], **attributes))
        return result

    def number(self, value: float) -> str:
        """The name of a constant of the network's dtype."""
        if value not in self._numbers:
            self._numbers[value] = self._store(
                f"number.{len(self._numbers)}", np.array(value, self._dtype)
            )
        return self._numbers[value]

    def _store(self, name: str, array: np.ndarray) -> str:
        from onnx import numpy_helper

        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _ids(self, name: str, ids: Any) -> str:
        """Stores int64 places."""
        return self._store(name, np.asarray(ids, dtype=np.int64))

    def _gather(self, values: str, name: str, ids: Any) -> str:
        return self.add("Gather", values, self._ids(name, ids), axis=0)

    def model(self) -> Any:
        """The ONNX model."""
        from onnx import helper

        record, header = self._record, self._record.header
        zero = self._store("number.zero", np.zeros(1, self._dtype))
        # A place that holds 0 for neurons of a smaller fan-in, or without a bias.
        self._weights = self.add("Concat", self._store(WEIGHT, record.weight.numpy()), zero, axis=0)
        self._biases = self.add("Concat", self._store(BIAS, record.bias.numpy()), zero, axis=0)
        values = [self._inputs()]
        for level in self._plan.tables.levels:
            values.append(self._level(level, values))
        outputs = self._outputs(values)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self._dtype))
        graph = helper.make_graph(
            self._nodes,
            "graphnn",
            [
                helper.make_tensor_value_info(f"{name}", kind, ["batch", len(ids)])
                for name, ids in header.inputs.items()
            ],
            [
                helper.make_tensor_value_info(result, kind, ["batch", size])
                for result, size in outputs
            ],
            self._initializers,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="graphnn",
        )
        helper.set_model_props(model, self._metadata())
        return model

    def _metadata(self) -> dict[str, str]:
        record, graph = self._record, self._net.graph.to("cpu")
        return {
            "graphnn": record.header.to_json(),
            "graphnn.edges": packed(record.edge_index.numpy()),
            "graphnn.biased": packed(graph.bias_neurons.numpy()),
            "graphnn.activations": json.dumps([entry.name for entry in graph.activation_table]),
            "graphnn.activation_code": packed(graph.activation_code.numpy()),
            "graphnn.names": json.dumps(record.names),
        }

    def _inputs(self) -> str:
        names = list(self._record.header.inputs)
        joined = names[0] if len(names) == 1 else self.add("Concat", *names, axis=1)
        values = self.add("Transpose", joined, perm=[1, 0])
        columns = self._plan.tables.input_columns
        return values if columns is None else self._gather(values, "inputs.columns", columns)

    def _pick(self, name: str, values: list[str], picked: Any) -> str:
        """Rows of several levels, one after the other."""
        parts = [
            values[level] if rows is None else self._gather(values[level], f"{name}.{level}", rows)
            for level, rows in picked
        ]
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=0)

    def _level(self, level: Level, values: list[str]) -> str:
        name = f"level.{level.index}"
        if level.pool_size:
            picked = zip(level.pool_levels, level.pool_rows, strict=True)
            pool = self._pick(f"{name}.sources", values, picked)
            sums = (
                self._block(name, level, pool) if level.is_block else self._sums(name, level, pool)
            )
        else:
            # Constants: nothing is read, but the batch must be known.
            first = self._gather(values[0], f"{name}.sources", [0] * level.size)
            sums = self.add("Mul", first, self.number(0.0))
        return self._activated(name, level, self._biased(name, level, sums))

    def _edges(self, level: Level) -> np.ndarray:
        if isinstance(level.edges, slice):
            return np.arange(level.edges.start, level.edges.stop)
        return level.edges.numpy()

    def _block(self, name: str, level: Level, pool: str) -> str:
        edges = self._edges(level).reshape(level.size, level.pool_size)
        if level.block_columns is not None:
            pool = self._gather(pool, f"{name}.columns", level.block_columns)
        weight = self._gather(self._weights, f"{name}.edges", edges)
        return self.add("MatMul", weight, pool)

    def _sums(self, name: str, level: Level, pool: str) -> str:
        """One batch of matrix products (1, f) x (f, batch) for each fan-in f."""
        ptr, columns = level.row_ptr.numpy(), level.columns.numpy()
        edges = self._edges(level)
        missing = self._net.graph.num_edges
        fan_in = np.diff(ptr)
        width = _widths(fan_in)
        parts, order = [], []
        for size in np.unique(width):
            rows = np.flatnonzero(width == size)
            places = ptr[rows, None] + np.arange(size)
            is_edge = np.arange(size) < fan_in[rows, None]
            # A neuron's own first source stands in for those it does not have.
            places = np.where(is_edge, places, np.minimum(ptr[rows, None], edges.size - 1))
            own = f"{name}.fan_in_{size}"
            ids = np.where(is_edge, edges[places], missing)[:, None]
            weight = self._gather(self._weights, f"{own}.edges", ids)
            sources = self._gather(pool, f"{own}.sources", columns[places])
            product = self.add("MatMul", weight, sources)
            self._axis = self._axis or self._ids("number.axis", [1])
            parts.append(self.add("Squeeze", product, self._axis))
            order.append(rows)
        joined = parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=0)
        place = np.concatenate(order).argsort()
        is_ordered = np.array_equal(place, np.arange(place.size))
        return joined if is_ordered else self._gather(joined, f"{name}.order", place)

    def _biased(self, name: str, level: Level, sums: str) -> str:
        missing = self._net.bias.numel()
        places = np.full(level.size, missing)
        ids = level.bias
        own = np.arange(ids.start, ids.stop) if isinstance(ids, slice) else ids.numpy()
        if own.size == 0:
            return sums
        places[slice(None) if level.biased is None else level.biased.numpy()] = own
        bias = self._gather(self._biases, f"{name}.biases", places[:, None])
        return self.add("Add", sums, bias)

    def _activated(self, name: str, level: Level, preactivations: str) -> str:
        if level.activation_order is None:
            return write_activation(self, level.activations[0][0], preactivations)
        parts = []
        for number, (activation, places) in enumerate(level.activations):
            own = self._gather(preactivations, f"{name}.activation_{number}", places)
            parts.append(write_activation(self, activation, own))
        joined = self.add("Concat", *parts, axis=0)
        return self._gather(joined, f"{name}.activation_order", level.activation_order)

    def _outputs(self, values: list[str]) -> list[tuple[str, int]]:
        """(name, number of neurons) of every group; an output may not be called as an input is."""
        tables = self._plan.tables
        joined = self._pick("outputs", values, tables.output_rows)
        groups = self._record.header.outputs
        results, first = [], 0
        places = np.arange(self._net.out_features)
        if tables.output_order is not None:
            places = tables.output_order.numpy()
        for name, ids in groups.items():
            own = self._gather(joined, f"outputs.{name}", places[first : first + len(ids)])
            first += len(ids)
            result = self.add("Transpose", own, perm=[1, 0])
            if self._net.output_transform is not None:
                is_soft = self._net.output_transform == "softmax"
                result = self.add("Softmax" if is_soft else "LogSoftmax", result, axis=-1)
            called = f"{name}.output" if name in self._record.header.inputs else name
            self._nodes[-1].output[0] = called
            results.append((called, len(ids)))
        return results


def _widths(fan_in: np.ndarray) -> np.ndarray:
    if np.unique(fan_in).size <= _MANY_FAN_INS:
        return np.maximum(fan_in, 1)
    return 2 ** np.ceil(np.log2(np.maximum(fan_in, 1))).astype(np.int64)
