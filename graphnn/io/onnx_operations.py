"""What ONNX operations do to neurons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn.activation import resolve
from graphnn.assembly.blocks import Assembly
from graphnn.assembly.neurons import Neurons
from graphnn.assembly.operations import average_pool, convolve, reduce
from graphnn.errors import ConversionError
from graphnn.io.onnx_activations import read_activation

# Operations that only move elements: they run as they are, on ids.
_MOVES = frozenset(
    {
        "Reshape", "Flatten", "Transpose", "Concat", "Split", "Slice", "Gather", "Squeeze",
        "Unsqueeze", "Expand", "Tile", "DepthToSpace", "SpaceToDepth",
    }
)  # fmt: skip
_PASSED_ON = frozenset({"Identity", "Dropout"})


@dataclass(frozen=True, eq=False)
class Softmax:
    """Outputs under a softmax, which no neuron can read.

    Args:
        neurons: What goes into it.
        transform: "softmax" or "log_softmax".
    """

    neurons: Neurons
    transform: str


class Operations:
    """Performs a model's operations one by one.

    Args:
        model: An ONNX model, checked.
    """

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self.assembly = Assembly()
        self.dtype = torch.get_default_dtype()
        self.values: dict[str, Any] = {"": None}
        self._opset = {entry.domain: entry.version for entry in model.opset_import}
        self._initial = {value.name for value in model.graph.initializer}
        for value in model.graph.initializer:
            self.values[value.name] = numpy_helper.to_array(value)
        self._own: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "Conv": self._conv,
            "BatchNormalization": self._batch_norm,
            "AveragePool": self._average_pool,
            "GlobalAveragePool": self._global_average_pool,
            "ReduceMean": self._reduce,
            "ReduceSum": self._reduce,
            "Add": self._add,
            "Sum": self._add,
            "Sub": self._sub,
            "Mul": self._mul,
            "Div": self._div,
            "Neg": self._neg,
            "Pow": self._pow,
            "Clip": self._clip,
            "Softmax": self._softmax,
            "LogSoftmax": self._softmax,
        }

    def input(self, name: str, shape: Sequence[int]) -> Neurons:
        """Adds input neurons for samples of this shape."""
        neurons = self.values[name] = self.assembly.inputs(shape)
        return neurons

    def perform(self, node: Any) -> None:
        """Performs one operation.

        Raises:
            ConversionError: It is none that neurons can do.
        """
        from onnx import helper

        given = [self.values[name] for name in node.input]
        neurons = [value for value in given if isinstance(value, Neurons)]
        if any(isinstance(value, Softmax) for value in given):
            raise ConversionError("reads a softmax, which may only be the last step")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if not neurons:
            results = self._run(node, given)
        elif node.op_type in _PASSED_ON:
            results = neurons
        elif node.op_type == "Shape":
            results = self._run(node, [neurons[0].ids.numpy()])
        elif node.op_type in _MOVES:
            results = self._move(node, given, neurons)
        elif node.op_type in self._own:
            results = [self._own[node.op_type](node, attributes)]
        else:
            name = read_activation(node.op_type, attributes)
            if name is None:
                raise ConversionError(
                    "cannot be read as neurons and edges. Known are Gemm, MatMul and Conv with "
                    "constant weights, average pooling, BatchNormalization, activations, sums, "
                    "constant factors, and what moves elements"
                )
            results = [self.assembly.activation(neurons[0], name)]
        self.values.update(zip(node.output, results, strict=False))

    def _run(self, node: Any, given: list[Any]) -> list[Any]:
        """Runs an operation on arrays."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        own = helper.make_graph(
            [node],
            "one",
            [helper.make_empty_tensor_value_info(name) for name in node.input if name],
            [helper.make_empty_tensor_value_info(name) for name in node.output],
        )
        opsets = [helper.make_opsetid(domain, v) for domain, v in self._opset.items()]
        evaluator = ReferenceEvaluator(helper.make_model(own, opset_imports=opsets))
        named = dict(zip(node.input, given, strict=True))
        named.pop("", None)
        try:
            return list(evaluator.run(None, named))
        except Exception as error:
            raise ConversionError(f"cannot be run on a batch of any size ({error})") from error

    def _move(self, node: Any, given: list[Any], neurons: list[Neurons]) -> list[Neurons]:
        joined = given if node.op_type == "Concat" else given[:1]
        if any(not isinstance(value, Neurons) for value in joined) or (
            len(neurons) > 1 and node.op_type != "Concat"
        ):
            raise ConversionError("joins neurons with constants, which are no neurons")
        ids = [value.ids.numpy() if isinstance(value, Neurons) else value for value in given]
        moved = [torch.from_numpy(np.array(value)) for value in self._run(node, ids)]
        return [neurons[0].moved(value) for value in moved]

    def _values_of(self, node: Any) -> list[Any]:
        return [self.values[name] for name in node.input]

    def _entries(self, node: Any, place: int) -> Tensor | None:
        """The entries of a constant that is trained."""
        if len(node.input) <= place or not node.input[place]:
            return None
        name = node.input[place]
        value = self.values[name]
        if isinstance(value, Neurons):
            raise ConversionError(
                "multiplies computed values by each other, but a neuron adds its sources up by "
                "fixed weights"
            )
        tensor = torch.from_numpy(np.array(value))
        if tensor.is_floating_point():
            self.dtype = tensor.dtype
        return self.assembly.entries.add(name, name, tensor, False)

    def _neurons(self, node: Any) -> Neurons:
        value = self.values[node.input[0]]
        if not isinstance(value, Neurons):
            raise ConversionError("must have neurons as its first input, and constants as others")
        return value

    def _gemm(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        x, weight, bias = self._neurons(node), self._entries(node, 1), self._entries(node, 2)
        assert weight is not None
        if attributes.get("transA", 0) or {attributes.get(a, 1.0) for a in ("alpha", "beta")} != {
            1.0
        }:
            raise ConversionError("must have transA = 0, alpha = 1 and beta = 1")
        weight = weight if attributes.get("transB", 0) else weight.t()
        if bias is not None:
            bias = bias.reshape(-1).expand(weight.shape[0])
        return self.assembly.linear(x, weight, bias)

    def _matmul(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        x, weight = self._neurons(node), self._entries(node, 1)
        assert weight is not None
        if weight.dim() != 2:
            raise ConversionError(
                f"must have a weight of two dimensions (got {tuple(weight.shape)})"
            )
        return self.assembly.linear(x, weight.t(), None)

    def _padding(self, attributes: dict[str, Any], num_dims: int) -> tuple[int, ...]:
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise ConversionError("must have explicit pads, not auto_pad")
        pads = list(attributes.get("pads", [0] * 2 * num_dims))
        if pads[:num_dims] != pads[num_dims:]:
            raise ConversionError(f"must have equal pads on both sides (got {pads})")
        return tuple(pads[:num_dims])

    def _conv(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        x, weight, bias = self._neurons(node), self._entries(node, 1), self._entries(node, 2)
        assert weight is not None
        num_dims = weight.dim() - 2
        return convolve(
            self.assembly,
            x,
            weight,
            bias,
            attributes.get("strides", [1] * num_dims),
            self._padding(attributes, num_dims),
            attributes.get("dilations", [1] * num_dims),
            attributes.get("group", 1),
        )

    def _batch_norm(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        x = self._neurons(node)
        if attributes.get("training_mode", 0):
            raise ConversionError("must be in inference mode. Export the model after model.eval()")
        weight, bias, mean, variance = (
            torch.from_numpy(np.array(value)).double() for value in self._values_of(node)[1:]
        )
        scale = weight * (variance + attributes.get("epsilon", 1e-5)).rsqrt()
        name, entries = node.output[0], self.assembly.entries
        return self.assembly.norm(
            x,
            entries.add((name, "scale"), f"{name}.scale", scale, False),
            entries.add((name, "shift"), f"{name}.shift", bias - mean * scale, False),
        )

    def _average_pool(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        x, kernel = self._neurons(node), attributes["kernel_shape"]
        if any(step != 1 for step in attributes.get("dilations", ())):
            raise ConversionError("must have no dilations")
        return average_pool(
            self.assembly, x, len(kernel), kernel, attributes.get("strides", [1] * len(kernel)),
            self._padding(attributes, len(kernel)), bool(attributes.get("ceil_mode", 0)),
            bool(attributes.get("count_include_pad", 0)),
        )  # fmt: skip

    def _global_average_pool(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        x = self._neurons(node)
        return reduce(self.assembly, x, range(2, x.ids.dim()), True, averages=True)

    def _reduce(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        given = self._values_of(node)
        dims = attributes.get("axes") if len(given) < 2 else given[1].tolist()
        keeps = bool(attributes.get("keepdims", 1))
        return reduce(self.assembly, self._neurons(node), dims, keeps, node.op_type == "ReduceMean")

    def _add(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        total, *others = sorted(range(len(node.input)), key=self._is_constant(node))
        result = self._values_of(node)[total]
        for place in others:
            value = self._values_of(node)[place]
            if isinstance(value, Neurons):
                result = self.assembly.add(result, value)
            elif node.input[place] in self._initial and np.size(value) > 1:
                entries = self._entries(node, place)
                assert entries is not None
                result = self.assembly.trained_shift(result, entries)
            else:
                result = self.assembly.shift(result, torch.from_numpy(np.array(value)))
        return result

    def _is_constant(self, node: Any) -> Callable[[int], bool]:
        return lambda place: not isinstance(self.values[node.input[place]], Neurons)

    def _sub(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        one, other = self._values_of(node)
        if not isinstance(other, Neurons):
            return self.assembly.shift(one, -torch.from_numpy(np.array(other)))
        if isinstance(one, Neurons):
            return self.assembly.add(one, other, -1.0)
        negative = self.assembly.scale(other, -1.0)
        return self.assembly.shift(negative, torch.from_numpy(np.array(one)))

    def _mul(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        one, other = self._values_of(node)
        if isinstance(one, Neurons) and isinstance(other, Neurons):
            if one is other:
                return self.assembly.activation(one, "square")
            raise ConversionError(
                "multiplies computed values by each other, but a neuron adds its sources up by "
                "fixed weights. Activations that were exported in parts may be exported whole by a "
                "higher opset"
            )
        x, factor = (one, other) if isinstance(one, Neurons) else (other, one)
        return self.assembly.scale(x, torch.from_numpy(np.array(factor)))

    def _div(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        divisor = self._values_of(node)[1]
        if isinstance(divisor, Neurons):
            raise ConversionError("divides by computed values, which no weighted sum does")
        x = self._neurons(node)
        return self.assembly.scale(x, 1 / torch.from_numpy(np.array(divisor)).double())

    def _neg(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        return self.assembly.scale(self._neurons(node), -1.0)

    def _pow(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        exponent = self._values_of(node)[1]
        if isinstance(exponent, Neurons) or np.size(exponent) != 1 or float(exponent) != 2:
            raise ConversionError("is known for the exponent 2 only, the activation 'square'")
        return self.assembly.activation(self._neurons(node), "square")

    def _clip(self, node: Any, attributes: dict[str, Any]) -> Neurons:
        bounds = [None if v is None else float(v) for v in self._values_of(node)[1:]]
        low, high = (*bounds, None, None)[:2]
        if low == 0 and high is None:
            return self.assembly.activation(self._neurons(node), "relu")
        if low is None or high is None:
            raise ConversionError("must have both bounds, or 0 as its lower one only")
        name = resolve(f"clamp({low!r}, {high!r})").name
        return self.assembly.activation(self._neurons(node), name)

    def _softmax(self, node: Any, attributes: dict[str, Any]) -> Softmax:
        x, axis = self._neurons(node), attributes.get("axis", -1)
        if x.ids.dim() != 2 or axis not in (-1, 1):
            raise ConversionError("must be over the features of (batch, n)")
        return Softmax(x, "softmax" if node.op_type == "Softmax" else "log_softmax")
