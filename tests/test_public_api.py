"""The names that graphnn exports, and what their docstrings say."""

import ast
import functools
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import graphnn

FUNCTIONS = {
    "backends",
    "build_plan",
    "export_weights",
    "from_edges",
    "from_module",
    "from_masks",
    "from_neat",
    "from_networkx",
    "from_pyg",
    "from_sequential",
    "load",
    "read_graphml",
    "read_onnx",
    "register_activation",
    "save",
    "to_module",
    "to_networkx",
    "to_pyg",
    "to_sequential",
    "write_gexf",
    "write_graphml",
    "write_onnx",
}
ERRORS = {"BackendError", "ConversionError", "FormatError", "GraphError", "GraphNNError"}
CLASSES = {"Network", "NeuronActivation", "NeuronGraph", "Trace"}
MODULES = {
    "activation": {"Activation", "register_activation", "resolve"},
    "attribution": {
        "AblationCurve",
        "ablate",
        "ablation_curve",
        "aggregate",
        "circuit_edges",
        "completeness_error",
        "conductance",
        "gradient",
        "gradient_x_value",
        "integrated_gradients",
        "rank",
        "top_circuit",
    },
    "edit": {"add_edges", "prune", "remove_neurons", "subgraph"},
    "generate": {
        "block_diagonal",
        "erdos_renyi",
        "layered",
        "local",
        "radixnet",
        "radixnet_parameters",
        "random_dag",
        "random_sparse",
        "scale_free",
        "small_world",
    },
    "init": {
        "kaiming_normal_",
        "kaiming_uniform_",
        "sparse_",
        "weights_",
        "xavier_normal_",
        "xavier_uniform_",
    },
    "parametrize": {"Frozen", "Sign", "Tied"},
    "viz": {
        "draw",
        "plot_activations",
        "plot_degrees",
        "plot_network",
        "plot_sparsity",
        "plot_weights",
        "write_html",
    },
}


def exported():
    """What graphnn/__init__.py re-exports on purpose: `import X as X`."""
    tree = ast.parse(Path(graphnn.__file__).read_text(encoding="utf-8"))
    return {
        alias.asname
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


OBJECTS = sorted(FUNCTIONS | CLASSES) + sorted(
    f"{module}.{name}" for module, names in MODULES.items() for name in names - FUNCTIONS
)
METHODS = [
    f"{class_name}.{name}"
    for class_name in sorted(CLASSES)
    for name, member in vars(getattr(graphnn, class_name)).items()
    if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
]


def find(path) -> Any:
    return functools.reduce(getattr, path.split("."), graphnn)


def sections(member):
    return set(re.findall(r"^(Args|Returns|Raises|Example):", inspect.getdoc(member) or "", re.M))


def parameters(member):
    names = [name for name in inspect.signature(member).parameters if name != "self"]
    return [name for name in names if not name.startswith("_")]


def test_the_exports_are_the_contract():
    assert exported() == FUNCTIONS | ERRORS | CLASSES | set(MODULES)


def test_nothing_else_is_public():
    others = {
        name
        for name, value in vars(graphnn).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert others == FUNCTIONS | ERRORS | CLASSES


def test_every_error_is_a_value_error_under_one_root():
    for name in ERRORS:
        assert issubclass(getattr(graphnn, name), graphnn.GraphNNError)
    assert issubclass(graphnn.GraphNNError, ValueError)


@pytest.mark.parametrize("name", OBJECTS)
def test_public_docstrings_have_their_sections(name):
    member = find(name)
    text = inspect.getdoc(member)
    assert text, f"{name} has no docstring"
    first, *rest = text.splitlines()
    assert first.endswith("."), f"{name}: the first line is not one sentence: {first!r}"
    assert not rest or rest[0] == "", f"{name}: the first line runs on"
    found = sections(member)
    if inspect.isclass(member):
        assert found >= {"Args", "Example"}, name
        return
    expected = {"Example"}
    if parameters(member):
        expected.add("Args")
    if inspect.signature(member).return_annotation not in (None, "None"):
        expected.add("Returns")
    # A function without arguments says all in its first line.
    if not parameters(member):
        expected.discard("Returns")
    assert found >= expected, f"{name} lacks {expected - found}"


@pytest.mark.parametrize("name", METHODS)
def test_public_methods_have_docstrings(name):
    member = find(name)
    text = inspect.getdoc(member)
    assert text, f"{name} has no docstring"
    if inspect.isfunction(member) and len(parameters(member)) > 0:
        assert sections(member) >= {"Args"}, name


@pytest.mark.parametrize("name", OBJECTS)
def test_every_documented_argument_exists(name):
    member = find(name)
    listed = re.search(r"^Args:\n((?:    .*\n|\n)+)", f"{inspect.getdoc(member)}\n", re.M)
    if listed is None:
        return
    documented = re.findall(r"^    (\w+):", listed[1], re.M)
    actual = [p.lstrip("*") for p in parameters(member)]
    assert documented == actual, name
