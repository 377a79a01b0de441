"""Neurons that read the same sources are computed four at a time, and nothing else changes."""

import itertools

import pytest
import torch
from gpu_networks import agree, by_reference, gradients, samples
from hypothesis import given, settings
from hypothesis import strategies as st

import graphnn
from graphnn import generate, pieces
from graphnn.backends import fused_gpu_fours, fused_gpu_pass
from graphnn.backends.fused_gpu_fours import find
from graphnn.backends.fused_gpu_schedule import Schedule, schedule


def found(plan, without=()):
    return find(plan.level_ptr, plan.row_ptr, plan.edge_source, without)


def rows_of(plan):
    """What each position reads."""
    ptr = plan.row_ptr.tolist()
    return [tuple(plan.edge_source[a:b].tolist()) for a, b in itertools.pairwise(ptr)]


def check(plan, fours, without=()):
    """Compares with what looking at every neuron tells."""
    reads, level_ptr = rows_of(plan), plan.level_ptr.tolist()
    assert fours.ptr[0] == 0
    assert fours.ptr[-1] == fours.rows.shape[1]
    for level, (top, end) in enumerate(itertools.pairwise(level_ptr)):
        own = range(top, end)
        alike = {}
        for row in own:
            alike.setdefault(reads[row], []).append(row)
        expected = [
            [*chosen, *[chosen[0]] * (4 - len(chosen))]
            for group in alike.values()
            for chosen in (group[i : i + 4] for i in range(0, len(group), 4))
        ]
        edges = sum(len(reads[row]) for row in own)
        worth = 2 * len(expected) <= len(own) and edges >= 4 * len(own)
        if level == 0 or level in without or not worth:
            expected = []
        start, stop = fours.ptr[level : level + 2]
        assert fours.count(level) == stop - start
        # In the order of the first of all that are alike.
        assert fours.rows[:, start:stop].t().tolist() == expected


@st.composite
def wirings(draw):
    """Layered wirings whose neurons choose among a few sets of sources."""
    edges, start, width = [], 0, 6
    for _ in range(draw(st.integers(1, 3))):
        sets = [
            sorted(draw(st.sets(st.integers(0, start + width - 1), min_size=1, max_size=8)))
            for _ in range(draw(st.integers(1, 4)))
        ]
        above = draw(st.integers(1, 13))
        for neuron in range(start + width, start + width + above):
            chosen = sets[draw(st.integers(0, len(sets) - 1))]
            edges += [(source, neuron) for source in chosen]
            # So that no neuron stands lower than meant.
            edges += [(start, neuron)] if start not in chosen else []
        start, width = start + width, above
    source, target = zip(*edges, strict=True)
    return graphnn.NeuronGraph(
        [source, target], inputs=range(6), outputs=range(start, start + width)
    )


@settings(deadline=None, max_examples=60)
@given(wirings(), st.booleans(), st.booleans())
def test_finds_what_looking_at_every_neuron_finds(graph, in_pieces, skips):
    plan = graphnn.build_plan(graph)
    without = (1,) if skips else ()
    with pytest.MonkeyPatch.context() as patch:
        if in_pieces:
            patch.setattr(pieces, "_PIECE", 1)
        check(plan, found(plan, without), without)


def test_finds_the_groups_of_a_challenge_network(device):
    graph = generate.radixnet(64, 3).to(device)
    plan = graphnn.build_plan(graph)
    fours = found(plan)
    assert fours.ptr == (0, 0, 16, 32, 48)
    assert fours.rows.device.type == device.type
    check(plan, fours)


def test_equal_hashes_are_no_proof(monkeypatch):
    plan = graphnn.build_plan(generate.radixnet(64, 2))
    reads = rows_of(plan)
    monkeypatch.setattr(fused_gpu_fours, "_SPREAD", 0)
    fours = found(plan)
    for four in fours.rows.t().tolist():
        assert len({reads[row] for row in four}) == 1
    # Rows alike do not follow one another then: few fours are full, but none is left out.
    for level, (top, end) in enumerate(itertools.pairwise(plan.level_ptr.tolist())):
        start, stop = fours.ptr[level : level + 2]
        assert {*fours.rows[:, start:stop].flatten().tolist()} in ({*range(top, end)}, set())


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize(
    "reads",
    [
        [[0, 1, 2, 3, 4]] * 6 + [[1, 2, 3, 4, 5]] * 2,
        # What some read, others read too, and more.
        [[0, 1, 2, 3, 4, 5]] * 3 + [[0, 1, 2, 3, 4]] * 5,
    ],
)
def test_rows_of_one_hash_are_told_apart(monkeypatch, in_pieces, reads):
    monkeypatch.setattr(fused_gpu_fours, "_SPREAD", 0)
    if in_pieces:
        monkeypatch.setattr(pieces, "_PIECE", 1)
    counts = torch.tensor([0] * 9 + [len(own) for own in reads])
    source = torch.tensor([one for own in reads for one in own], dtype=torch.int32)
    fours = find(torch.tensor([0, 8, 16]), counts.cumsum(0), source)
    assert fours.rows.shape[1] == 3
    for four in fours.rows.t().tolist():
        assert len({tuple(reads[row - 8]) for row in four}) == 1
    assert {*fours.rows.flatten().tolist()} == {*range(8, 16)}


def grouped(rng, device, dtype=torch.float32):
    """Groups of 4, 3, 1 and 6 alike, over two levels, with all that neurons differ in."""
    edges, sets = [], ([0, 1, 2, 3, 4], [0, 2, 4, 5], [1, 2, 3, 5], [0, 1, 3, 4, 5])
    for neuron, which in enumerate([0, 1, 0, 3, 3, 1, 0, 2, 3, 0, 3, 1, 3, 3]):
        edges += [(source, 6 + neuron) for source in sets[which]]
    sets = ([6, 7, 8, 9, 0], [10, 12, 14, 18], [6, 11, 13, 15, 19, 5])
    for neuron, which in enumerate([0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 1]):
        edges += [(source, 20 + neuron) for source in sets[which]]
    source, target = zip(*edges, strict=True)
    names = ["tanh", "relu", "gelu", "identity", "clamp(-0.5, 0.5)"]
    graph = graphnn.NeuronGraph(
        [source, target], inputs=range(6), outputs=[*range(20, 31), 7, 0],
        activation=["identity"] * 6 + [names[i % 5] for i in range(25)],
        bias=[i > 5 and i % 3 > 0 for i in range(31)],
    )  # fmt: skip
    weight = torch.randn(graph.num_edges, generator=rng)
    bias = torch.randn(graph.bias_neurons.numel(), generator=rng)
    return graphnn.Network(graph, weight, bias, "fused_gpu", dtype=dtype, device=device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 9, 70])
def test_four_at_a_time_and_one_by_one_give_the_same_bits(rng, device, monkeypatch, dtype, batch):
    monkeypatch.setattr(fused_gpu_pass, "launches", lambda *_: "levels")
    net = grouped(rng, device, dtype)
    x = samples(net, batch, rng)
    offset = torch.randn(batch, net.graph.num_neurons, generator=rng).to(device, dtype)

    def everything():
        own = gradients(net, x)
        with torch.no_grad():
            trace = net.trace(x, offset=offset)
            return *own, net(x), trace.values, trace.preactivations

    assert schedule(net.plan).fours.ptr == (0, 0, 5, 9)
    by_fours = everything()
    none = fused_gpu_fours.Fours((0,) * 4, torch.empty(4, 0, dtype=torch.int32, device=device))
    monkeypatch.setattr(Schedule, "fours", none)
    net = graphnn.Network(net.graph, net.weight, net.bias, "fused_gpu", dtype=dtype, device=device)
    net.plan.derived.clear()
    assert not any(map(schedule(net.plan).fours.count, range(3)))
    for one, other in zip(by_fours, everything(), strict=True):
        assert torch.equal(one, other)
    agree(by_fours[:4], by_reference(net, x), dtype)


def test_a_state_that_is_reused_has_room_for_fours(rng, device, monkeypatch):
    monkeypatch.setattr(fused_gpu_pass, "launches", lambda *_: "levels")
    graph = generate.radixnet(32, 9).to(device)
    weight = torch.randn(graph.num_edges, generator=rng) / 4
    net = graphnn.Network(graph, weight, backend="fused_gpu").to(device)
    own = schedule(net.plan)
    assert own.ring.size < graph.num_neurons / 2
    assert all(own.fours.count(level) for level in range(1, 10))
    x = samples(net, 5, rng)
    with torch.no_grad():
        outputs = net(x)
    agree([outputs], by_reference(net, x)[:1])
