"""The schedule: flat arrays that agree with the wiring, complete blocks, the cache."""

# A gradient is None before the backward pass, a parametrization is a module that looks like a
# tensor to the type checker, and wrong types are given on purpose.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIndexIssue=false, reportOptionalIterable=false

import copy
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import CASES

import graphnn


def stack(*sizes, by_source=False):
    """Complete levels, edges row-major over each nn.Linear weight (or column-major)."""
    pieces, start = [], 0
    for below, above in itertools.pairwise(sizes):
        source = torch.arange(below).repeat(above) + start
        target = torch.arange(above).repeat_interleave(below) + start + below
        piece = torch.stack([source, target])
        pieces.append(piece[:, source.argsort(stable=True)] if by_source else piece)
        start += below
    return graphnn.NeuronGraph(torch.cat(pieces, 1))


@pytest.mark.parametrize("name", CASES)
def test_arrays_agree_with_the_wiring(name):
    graph = CASES[name]()
    plan = graphnn.build_plan(graph)
    n, levels = graph.num_neurons, graph.num_levels
    assert (plan.num_neurons, plan.num_edges, plan.num_levels) == (n, graph.num_edges, levels)
    assert plan.device == torch.device("cpu")

    order, position = plan.neuron_order, plan.neuron_position
    assert torch.equal(order[position], torch.arange(n))
    assert torch.equal(position[order], torch.arange(n))
    key = graph.level[order] * n + order
    assert (key.diff() > 0).all(), "positions number the neurons by (level, id)"
    assert torch.equal(plan.level_ptr.diff(), torch.bincount(graph.level, minlength=levels))
    assert plan.level_ptr[0] == 0

    assert torch.equal(plan.row_ptr.diff(), graph.fan_in[order])
    edges = plan.edge_order.long()
    assert torch.equal(edges.sort().values, torch.arange(graph.num_edges))
    source, target = graph.edge_index[:, edges]
    row = torch.repeat_interleave(torch.arange(n), plan.row_ptr.diff())
    assert torch.equal(position[target], row)
    assert torch.equal(position[source], plan.edge_source.long())
    assert ((row * n + source).diff() > 0).all(), "a row's edges ascend by source"
    assert (plan.edge_source < plan.level_ptr[graph.level[target]]).all()
    assert plan.edge_source.dtype == plan.edge_order.dtype

    biased = plan.bias_slot >= 0
    assert torch.equal(order[biased].sort().values, graph.bias_neurons)
    assert torch.equal(graph.bias_neurons[plan.bias_slot[biased]], order[biased])
    named = [plan.activation_table[code].name for code in plan.activation_code.tolist()]
    assert named == [graph.activation[neuron] for neuron in order.tolist()]
    assert torch.equal(order[plan.input_position], graph.input_ids)
    assert torch.equal(order[plan.output_position], graph.output_ids)


def block_of(graph, level):
    """(width, first edge) as the definition says, by brute force."""
    neurons = torch.nonzero(graph.level == level).flatten().tolist()
    pairs = [tuple(edge) for edge in graph.edge_index.t().tolist()]
    read = [sorted(s for s, t in pairs if t == neuron) for neuron in neurons]
    if level == 0 or not read[0] or any(own != read[0] for own in read):
        return 0, -1
    ids = [pairs.index((s, t)) for t in neurons for s in read[0]]
    consecutive = ids == list(range(ids[0], ids[0] + len(ids)))
    return len(read[0]), ids[0] if consecutive else -1


SMALL = [
    name for name in CASES if "500" not in name and "10,000" not in name and "wide" not in name
]


@pytest.mark.parametrize("name", SMALL)
def test_blocks_are_recognised(name):
    graph = CASES[name]()
    plan = graphnn.build_plan(graph)
    expected = [block_of(graph, level) for level in range(graph.num_levels)]
    # Whether a block of permuted neurons is a view depends on ids ascending by source within rows.
    widths = [width for width, _ in expected]
    assert plan.block_width.tolist() == widths
    assert plan.block_first_edge.tolist() == [first for _, first in expected]


def test_a_stack_of_linear_levels_is_all_views():
    plan = graphnn.build_plan(stack(3, 4, 2, 5))
    assert plan.block_width.tolist() == [0, 3, 4, 2]
    assert plan.block_first_edge.tolist() == [-1, 0, 12, 20]
    assert [level.edges for level in plan.levels] == [slice(0, 12), slice(12, 20), slice(20, 30)]


def test_another_order_of_edges_is_a_block_but_no_view():
    graph = stack(3, 4, 2, by_source=True)
    plan = graphnn.build_plan(graph)
    assert plan.block_width.tolist() == [0, 3, 4]
    assert plan.block_first_edge.tolist() == [-1, -1, -1]
    row_major = graph.edge_ids([0, 1, 2] * 4, [3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6])
    assert torch.equal(plan.levels[0].edges, row_major)


def test_one_missing_edge_is_no_block():
    graph = stack(3, 4, 2)
    edges = graph.edge_index[:, torch.arange(graph.num_edges) != 5]
    assert graphnn.build_plan(graphnn.NeuronGraph(edges)).block_width.tolist() == [0, 0, 4]


def test_a_converted_network_is_all_views():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    plan = graphnn.build_plan(graphnn.from_sequential(model).graph)
    assert plan.block_first_edge.tolist() == [-1, 0, 12]


def test_is_built_once_for_a_graph_and_a_device():
    graph = stack(2, 3)
    plan = graphnn.build_plan(graph)
    assert graphnn.build_plan(graph, "cpu") is plan
    assert graphnn.build_plan(graph, torch.device("cpu")) is plan
    assert graphnn.build_plan(stack(2, 3)) is not plan
    moved = graphnn.build_plan(graph, "meta")
    assert moved is graphnn.build_plan(graph, "meta")
    assert {moved.row_ptr.device.type, moved.device.type} == {"meta"}
    assert moved.to(torch.device("meta")) is moved


def test_networks_of_one_graph_share_the_plan():
    graph = stack(2, 3)
    one, other = graphnn.Network(graph), graphnn.Network(graph)
    assert one.plan is other.plan is graphnn.build_plan(graph)
    assert copy.deepcopy(one).plan is one.plan
    assert copy.deepcopy(one.plan) is one.plan


def test_is_no_part_of_a_networks_state():
    net = graphnn.Network(stack(2, 3))
    assert list(net.state_dict()) == ["weight", "bias"]
    assert list(net.buffers()) == []


def test_threads_that_build_at_once_get_one_plan():
    graph = CASES["random, wide"]()
    barrier = threading.Barrier(4)

    def build(_):
        barrier.wait()
        plan = graphnn.build_plan(graph)
        return plan, plan.tables

    with ThreadPoolExecutor(4) as pool:
        plans, tables = zip(*pool.map(build, range(4)), strict=True)
    assert all(plan is plans[0] for plan in plans)
    assert all(table is tables[0] for table in tables)


def test_made_under_inference_mode_it_serves_training():
    with torch.inference_mode():
        graph = CASES["random"]()
        graphnn.build_plan(graph)
    net = graphnn.Network(graph)
    net(torch.ones(2, net.in_features)).sum().backward()
    net.trace(torch.ones(2, net.in_features)).triplets()[0].sum().backward()
    assert net.weight.grad.isfinite().all()
