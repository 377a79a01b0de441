"""The choice among the backends, what it refuses, and its report."""

# A gradient is None before the backward pass, a parametrization is a module that looks like a
# tensor to the type checker, and wrong types are given on purpose.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIndexIssue=false, reportOptionalIterable=false

import pytest
import torch
from cases import ON_CPU

import graphnn


def skip_graph():
    """Level 1 reads different sources; level 2 is complete over two levels."""
    edges = [[0, 1, 1, 2, 3, 0], [2, 2, 3, 4, 4, 4]]
    return graphnn.NeuronGraph(edges, activation="tanh")


@pytest.fixture
def net(rng):
    return graphnn.Network(skip_graph(), generator=rng)


@pytest.fixture
def x(rng):
    return torch.randn(5, 2, generator=rng)


@pytest.fixture
def without_pyg(monkeypatch):
    """A machine on which torch_geometric is not installed."""
    from graphnn.backends import scatter

    monkeypatch.setattr(scatter, "find_spec", lambda name: None)


def test_reference_is_the_last_resort():
    names = graphnn.backends()
    assert names[-1] == "reference"
    assert "scatter" in names
    assert "auto" not in names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["refrence", "", "AUTO", None, 3, ["reference"]])
def test_an_unknown_name_is_refused_at_once(net, name):
    message = r"backend must be 'auto' or one of .*'reference' \(got "
    with pytest.raises(graphnn.BackendError, match=message):
        graphnn.Network(skip_graph(), backend=name)
    with pytest.raises(graphnn.BackendError, match=message):
        net.backend = name
    assert net.backend == "auto"


def test_the_backend_can_be_set(net, x):
    outputs = []
    for name in ("auto", *ON_CPU):
        net.backend = name
        assert net.backend == name
        outputs.append(net(x))
    for other in outputs:
        torch.testing.assert_close(other, outputs[0])


def test_auto_takes_the_first_without_a_reason(net, x):
    report = net.backend_report(x)
    names = graphnn.backends()
    passed_over = names[: names.index(report.backend)]
    assert report.backend != "reference"
    for name in names[len(passed_over) + 1 :]:
        if name not in ON_CPU:
            assert "on a GPU" in report.reasons[name][0]
            continue
        assert report.reasons[name] == [f"{report.backend} comes first in the order of choice"]
    for name in passed_over:
        assert "comes first" not in "".join(report.reasons[name])


def test_a_named_backend_that_cannot_run_raises_and_does_not_fall_back(net, x, without_pyg):
    net.backend = "scatter"
    message = (
        r"backend 'scatter' cannot run this call: torch_geometric is not installed .*"
        r"Set net\.backend = 'auto'"
    )
    for call in (net, net.trace, net.backend_report):
        with pytest.raises(graphnn.BackendError, match=message):
            call(x)


def test_every_reason_is_told(net, x, without_pyg):
    net.backend = "scatter"
    with pytest.raises(graphnn.BackendError) as caught:
        torch.vmap(net)(x)
    assert "torch_geometric is not installed" in str(caught.value)
    assert "a torch.func transform" in str(caught.value)


def test_auto_goes_on_to_the_next(net, x, without_pyg):
    expected = graphnn.Network(net.graph, net.weight, net.bias, "reference")(x)
    torch.testing.assert_close(net(x), expected)
    assert "torch_geometric is not installed" in net.backend_report(x).reasons["scatter"][0]


@pytest.mark.parametrize(
    "call",
    [
        lambda net, x: torch.vmap(net)(x),
        lambda net, x: torch.func.grad(lambda x: net(x).sum())(x),
        lambda net, x: torch.func.jvp(net, (x,), (x,)),
        lambda net, x: torch.func.functionalize(net)(x),
        lambda net, x: net.to("meta")(x.to("meta")),
        lambda net, x: torch.export.export(net, (x,)),
    ],
)
def test_scatter_refuses_what_hides_values_from_it(net, x, call):
    net.backend = "scatter"
    with pytest.raises(graphnn.BackendError, match="which see only torch's own operations"):
        call(net, x)
    net.backend = "auto"
    call(net, x)


def test_an_error_inside_a_backend_is_not_swallowed(net, x, monkeypatch):
    from graphnn.backends import eager

    def fails(*_):
        raise MemoryError("no more")

    monkeypatch.setattr(eager, "activate", fails)
    net.backend = "reference"
    with pytest.raises(MemoryError, match="no more"):
        net(x)


def test_report_of_auto(net, x):
    net.backend = "auto"
    report = net.backend_report(x)
    others = set(graphnn.backends()) - {report.backend}
    assert set(report.reasons) == others
    assert all(reasons for reasons in report.reasons.values())


@pytest.mark.parametrize("name", ["scatter", "reference"])
def test_report_of_a_named_backend(net, x, name):
    net.backend = name
    report = net.backend_report(x)
    assert report.backend == name
    assert report.levels == ((1, 2, 3, "message passing"), (2, 1, 3, "matrix product"))
    other = "reference" if name == "scatter" else "scatter"
    assert report.reasons[other] == [f"net.backend is {name!r}"]
    text = str(report)
    assert text.startswith(f"backend {name}\n")
    assert "  level 1: message passing, 2 neurons, 3 edges" in text
    assert "  level 2: matrix product, 1 neurons, 3 edges" in text
    assert f"not {other}: net.backend is {name!r}" in text


def test_report_joins_equal_levels():
    ids = torch.arange(50)
    net = graphnn.Network(
        graphnn.NeuronGraph(torch.stack([ids[:-1], ids[1:]])), backend="reference"
    )
    report = net.backend_report(torch.ones(1, 1))
    assert len(report.levels) == 49
    assert "levels 1 to 49, each: matrix product, 1 neurons, 1 edges" in str(report)


def test_report_takes_groups_and_refuses_what_a_call_refuses():
    graph = graphnn.NeuronGraph([[0, 1], [2, 2]], inputs={"a": [0], "b": [1]})
    net = graphnn.Network(graph)
    one = torch.ones(3, 1)
    assert net.backend_report(one, one) == net.backend_report(b=one, a=one)
    with pytest.raises(graphnn.GraphError, match="one input must be given for each of the groups"):
        net.backend_report(one)
