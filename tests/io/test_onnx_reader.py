from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from torch import nn

import graphnn


def built(text: str, constants: Any = (), dtype: Any = np.float32, opset: int = 20) -> Any:
    """A model out of ONNX's own text form, with drawn or given initializers."""
    kind = "float" if dtype == np.float32 else "double"
    body = text.replace("T[", f"{kind}[")
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]> {body}')
    generator = np.random.default_rng(0)
    for name, value in dict(constants).items():
        if isinstance(value, tuple):
            value = generator.uniform(-0.5, 0.5, value).astype(dtype)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def check(model, path, batch=3):
    """Compares the network with onnxruntime, and gives it."""
    onnx.save(model, path)
    run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(1)
    xs = [
        generator.normal(size=(batch, *value.shape[1:])).astype(np.float32)
        for value in run.get_inputs()
    ]
    names = [value.name for value in run.get_inputs()]
    expected = run.run(None, dict(zip(names, xs, strict=True)))
    net = graphnn.read_onnx(path, backend="reference")
    outputs = net(*[torch.from_numpy(x).flatten(1) for x in xs])
    actual = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    for own, other in zip(actual, expected, strict=True):
        other = torch.from_numpy(other).flatten(1)
        assert own.shape == other.shape
        assert (own - other).abs().max() <= 1e-5 * other.abs().max()
    return net


MODELS = {
    "gemm": (
        "g (T[N, 4] x) => (T[N, 2] y) { h = Gemm <transB = 1> (x, w, b) r = Relu(h)"
        " y = Gemm (r, v, c) }",
        {"w": (5, 4), "b": (5,), "v": (5, 2), "c": (1, 2)},
    ),
    "matmul and bias": (
        "g (T[N, 3, 4] x) => (T[N, 3, 2] y) { h = MatMul(x, w) k = Add(b, h) y = Tanh(k) }",
        {"w": (4, 2), "b": (2,)},
    ),
    "convolution": (
        "g (T[N, 2, 7, 6] x) => (T[N, 12] y) {"
        " h = Conv <strides = [2, 1], pads = [1, 0, 1, 0], group = 2> (x, w, b)"
        " p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (h)"
        " y = Flatten(p) }",
        {"w": (4, 1, 3, 3), "b": (4,)},
    ),
    "batch norm": (
        "g (T[N, 2, 5] x) => (T[N, 3, 1] y) { h = Conv (x, w)"
        " n = BatchNormalization <epsilon = 0.01> (h, s, t, m, v) r = Relu(n)"
        " y = GlobalAveragePool(r) }",
        {"w": (3, 2, 2), "s": (3,), "t": (3,), "m": (3,), "v": np.ones(3, np.float32)},
    ),
    "shapes": (
        "g (T[N, 6] x) => (T[N, 6] y) { s = Shape(x) n = Gather <axis = 0> (s, zero)"
        " target = Concat <axis = 0> (n, rest) r = Reshape(x, target)"
        " t = Transpose <perm = [0, 2, 1]> (r) a, b = Split <axis = 1, num_outputs = 3> (t)"
        " y = Flatten(t) }".replace("a, b = Split <axis = 1, num_outputs = 3> (t)", ""),
        {"zero": np.array([0]), "rest": np.array([2, 3])},
    ),
    "residual": (
        "g (T[N, 3] x) => (T[N, 3] y) { h = MatMul(x, w) k = Sum(h, x) l = Sub(k, x)"
        " m = Mul(l, half) n = Div(m, four) y = Neg(n) }",
        {"w": (3, 3), "half": np.array([0.5], np.float32), "four": np.array([4.0], np.float32)},
    ),
    "branches": (
        "g (T[N, 4] x, T[N, 2] z) => (T[N, 4] y, T[N, 2] u) {"
        " a, b = Split <axis = 1, num_outputs = 2> (x) c = Concat <axis = 1> (b, z)"
        " y = Sigmoid(c) v = Clip(a, low, high) u = Sub(one, v) }",
        {"low": np.float32(-0.5), "high": np.float32(0.5), "one": np.array([1.0], np.float32)},
    ),
    "activations": (
        "g (T[N, 3] x) => (T[N, 3] y) { a = LeakyRelu <alpha = 0.2> (x) b = Elu(a)"
        " c = Selu(b) d = Celu <alpha = 0.7> (c) e = HardSigmoid <alpha = 0.16666667> (d)"
        " f = HardSwish(e) h = Mish(f) i = Softplus(h) j = Softsign(i) k = Gelu(j)"
        ' l = Gelu <approximate = "tanh"> (k) m = Sin(l) n = Abs(m) o = Pow(n, two)'
        " p = Identity(o) q = Mul(p, p) y = LogSoftmax(q) }",
        {"two": np.float32(2)},
    ),
    "means": (
        "g (T[N, 2, 6] x) => (T[N, 2] y) { m = ReduceMean <keepdims = 0> (x, axes)"
        " s = ReduceSum <keepdims = 0> (x, axes) y = Add(m, s) }",
        {"axes": np.array([2])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_of_other_tools_agree_with_onnxruntime(tmp_path, name):
    check(built(*MODELS[name]), tmp_path / "model.onnx")


def test_weights_are_trained_and_kernels_are_tied(tmp_path):
    net = check(built(*MODELS["convolution"]), tmp_path / "model.onnx")
    assert sum(p.numel() for p in net.parameters()) == 36 + 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_that_torch_exports_agrees(tmp_path):
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(18, 5), nn.Tanh(), nn.Linear(5, 3),
    ).eval()  # fmt: skip
    path = tmp_path / "model.onnx"
    x = torch.randn(2, 1, 8, 8)
    torch.onnx.export(
        model, (x,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}}
    )
    net = graphnn.read_onnx(path, backend="reference")
    assert (net(x.flatten(1)) - model(x)).abs().max() <= 1e-5


def test_dtype_backend_and_names_are_as_asked(tmp_path):
    path = tmp_path / "model.onnx"
    model = built("g (T[N, 2] x) => (T[N, 2] y) { y = MatMul(x, w) }", {"w": (2, 2)}, np.float64)
    model.graph.input[0].name = model.graph.node[0].input[0] = "1.x:0"
    onnx.save(model, path)
    assert graphnn.read_onnx(path).weight.dtype == torch.float64
    net = graphnn.read_onnx(path, backend="reference", dtype=torch.float32, device="cpu")
    assert net.weight.dtype == torch.float32
    assert net.backend == "reference"
    assert list(net.graph.inputs) == ["group_1_x_0"]


def refused(model: Any, path: Any, kind: type[Exception] = graphnn.ConversionError) -> str:
    onnx.save(model, path)
    with pytest.raises(kind) as error:
        graphnn.read_onnx(path)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("z = Relu(x) y = Mul(x, z)", "Mul 'y' multiplies"),
        ("z = Relu(x) y = Div(x, z)", "divides"),
        ("t = Relu(x) y = MatMul(x, t)", "multiplies"),
        ("y = LayerNormalization(x, w)", "cannot be read"),
        ("s = Softmax(x) y = Relu(s)", "last step"),
        ("y = Flatten <axis = 0> (x)", "dimension 0"),
        ("y = Concat <axis = 0> (x, x)", "dimension 0"),
        ("y = Concat <axis = 1> (x, w)", "constants"),
        ("y = Exp(x)", "cannot be read"),
        ("y = Gemm <alpha = 2.0> (x, v)", "alpha = 1"),
        ("y = Gemm(x, u)", "takes 3 values"),
        ("y = Gelu(w)", "depend on the inputs"),
        ("y = ReduceMean(x)", "dimension 0"),
        ("y = HardSigmoid(x)", "alpha"),
        ("y = Elu <alpha = 0.5> (x) z = Reshape(y, one)", "any size"),
    ],
)
def test_what_is_no_neuron_graph_is_refused_by_its_operation(tmp_path, body, text):
    model = built(
        f"g (float[N, 4] x) => (float[N, 4] y) {{ {body} }}",
        {"w": (4,), "v": (4, 4), "u": (3, 4), "one": np.array([1, 3])},
    )
    assert text in refused(model, tmp_path / "model.onnx")


def test_sizes_that_are_open_are_refused(tmp_path):
    model = built("g (float[N, M] x) => (float[N, M] y) { y = Relu(x) }")
    assert "(N, M)" in refused(model, tmp_path / "model.onnx")


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x07" * 40])
def test_other_files_are_refused(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(graphnn.FormatError) as error:
        graphnn.read_onnx(path)
    assert str(path) in str(error.value)


@pytest.fixture
def written(tmp_path):
    net = graphnn.from_edges([("a", "y", 2.0), ("b", "y", -0.1), ("a", "b", 1.5)])
    path = tmp_path / "net.onnx"
    graphnn.write_onnx(net, path)
    return onnx.load(path)


def test_a_file_that_was_cut_short_is_refused(tmp_path, written):
    path = tmp_path / "cut.onnx"
    data = written.SerializeToString()
    for size in (len(data) // 3, len(data) - 7):
        path.write_bytes(data[:size])
        with pytest.raises(graphnn.FormatError):
            graphnn.read_onnx(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("graphnn", "{}"),
        ("graphnn", "no JSON"),
        ("graphnn.edges", "int32:no"),
        ("graphnn.edges", "float:eA=="),
        ("graphnn.edges", "int32:eJwDAAAAAAE="),
        ("graphnn.activations", "[1]"),
        ("graphnn.activations", '["no"]'),
        ("graphnn.activations", "[]"),
        ("graphnn.names", '["a"]'),
        ("graphnn.names", "[[], [], []]"),
        ("graphnn.biased", None),
    ],
)
def test_metadata_that_was_changed_is_refused(tmp_path, written, key, value):
    properties = {entry.key: entry.value for entry in written.metadata_props}
    if value is None:
        del properties[key]
    else:
        properties[key] = value
    del written.metadata_props[:]
    helper.set_model_props(written, properties)
    text = refused(written, tmp_path / "net.onnx", graphnn.GraphNNError)
    assert text


def test_weights_of_another_length_are_refused(tmp_path, written):
    for value in written.graph.initializer:
        if value.name == "parameters.weight":
            value.CopyFrom(helper.make_tensor(value.name, TensorProto.FLOAT, [1], [1.0]))
    assert "must have shape (3,)" in refused(written, tmp_path / "n.onnx", graphnn.FormatError)
