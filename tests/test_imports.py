"""Imports flow one way, and `import graphnn` stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import graphnn

PACKAGE = Path(graphnn.__file__).parent

# A module may import from the stages above its own line, and from its own family: names joined by
# "+" on one line. Other names of one line never import each other.
STAGES = [
    ["errors", "picking"],
    ["activation"],
    [
        "graph+wiring+placing+sorted_edges+edges_by_level+summary+algorithms+topology"
        "+compiled_topology+device_topology+pieces+exhausted"
    ],
    ["plan+levels"],
    ["backends"],
    [
        "network+network_inputs+network_summary+autocast+parameters+trace"
        "+triplets+triplet_kernels+triplet_gpu_kernels"
    ],
    ["edit+edited+reachability", "layout", "record+labelled", "parametrize", "init"],
    ["assembly"],
    [
        "convert",
        "io",
        "attribution",
        "generate+masks",
        "build+edge_columns+edge_file+edge_frame+edge_table+numbering",
    ],
    ["viz"],
    ["cli+demo+__main__"],
]
PLACE = {
    name: (stage, family)
    for stage, families in enumerate(STAGES)
    for family in families
    for name in family.split("+")
}
# Loops on plain arrays and tensors: they import nothing of the package, and are loaded lazily.
LEAVES = {"topology", "pieces", "reachability", "numbering"}
LEAVES |= {"triplet_kernels", "triplet_gpu_kernels"}
SLOW = {
    "matplotlib": "drawing",
    "networkx": "the networkx and GraphML converters",
    "onnx": "ONNX files",
    "numba": "the compiled helpers",
    "pandas": "frames",
    "plotly": "drawing",
    "scipy": "layouts",
    "sklearn": "the demo",
    "torch_geometric": "the scatter backend and PyG converters",
    "torch_scatter": "the scatter backend",
    "tqdm": "the demo",
    "triton": "the GPU backend",
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(source):
    """(line, module) of every import of the package, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "graphnn":
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level
            elif node.module == "graphnn":
                for alias in node.names:
                    yield node.lineno, f"graphnn.{alias.name}"
            elif node.module and node.module.startswith("graphnn."):
                yield node.lineno, node.module


def offences(parts, source):
    """What the file `parts`, a path within the package, may not import."""
    name = parts[0] if parts else "__init__"
    if name not in PLACE:
        yield f"{name} has no stage: give it one in STAGES"
        return
    stage, family = PLACE[name]
    for line, module in imported(source):
        if module.startswith("."):
            yield f"line {line}: relative import; write the full path"
            continue
        target = module.split(".")[1] if "." in module else ""
        if target not in PLACE:
            # The front door imports everything, so only the last stage may come in by it.
            if stage < len(STAGES) - 1:
                yield f"line {line}: {module} is the package's front door; import the module itself"
            continue
        target_stage, target_family = PLACE[target]
        if name in LEAVES:
            yield f"line {line}: {name} imports nothing of the package, but imports {module}"
        elif target_family != family and target_stage >= stage:
            yield f"line {line}: {name} imports {module}, which does not come before it"


@pytest.mark.parametrize(
    "path",
    [path for path in modules() if path != PACKAGE / "__init__.py"],
    ids=lambda path: ".".join(dotted(path)),
)
def test_imports_follow_the_one_direction(path):
    assert list(offences(dotted(path), path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("graph", "from graphnn.plan import build_plan"),
        ("graph", "def f():\n    from graphnn import network"),
        ("convert", "from graphnn.io.graphml import read_graphml"),
        ("io", "import graphnn.convert.pyg"),
        ("edit", "from graphnn import record"),
        ("plan", "if TYPE_CHECKING:\n    from graphnn.network import Network"),
        ("network", "from graphnn import Network"),
        ("network", "import graphnn"),
        ("network", "from . import plan"),
        ("topology", "from graphnn.errors import GraphError"),
        ("utils", ""),
    ],
)
def test_a_wrong_arrow_is_seen(name, source):
    assert list(offences((name,), source)) != []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("graph", "from graphnn import topology, wiring"),
        ("network", "from graphnn.trace import Trace"),
        ("convert", "from graphnn.convert.sequential import from_sequential"),
        ("convert", "from graphnn import layout, record"),
        ("cli", "import graphnn"),
    ],
)
def test_a_right_arrow_is_not(name, source):
    assert list(offences((name,), source)) == []


def test_every_stage_is_of_a_module_that_may_exist():
    names = [name for families in STAGES for f in families for name in f.split("+")]
    assert len(names) == len(set(names))


def test_import_loads_nothing_slow_or_optional():
    code = (
        "import torch, sys; before = set(sys.modules); import graphnn; "
        "print(*(m for m in sys.modules if m not in before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "graphnn" in loaded
    for name in sorted(SLOW):
        assert name not in loaded, f"import graphnn loads {name}, which only {SLOW[name]} need"
