"""How the GPU backend adds gradients up, piece by piece of a batch."""

import pytest
import torch
from cases import CASES
from gpu_networks import agree, by_reference, gradients, layered, samples
from torch.utils._python_dispatch import TorchDispatchMode

import graphnn
from graphnn.backends import fused_gpu_backward, fused_gpu_pass, fused_gpu_schedule


def test_blocks_of_samples_share_few_rows_of_weight_gradients(rng, device, monkeypatch):
    net = layered(rng, device, sizes=(4, 5, 3), activation="relu")
    x = samples(net, 70, rng)
    expected = by_reference(net, x)
    for how in ("walk", "levels"):
        monkeypatch.setattr(fused_gpu_pass, "launches", lambda *_, how=how: how)
        # Room for two, then for one share of all edges' gradients.
        for room in (2 * 4 * net.graph.num_edges, 1):
            monkeypatch.setattr(fused_gpu_backward, "_SHARE_BYTES", room)
            agree(gradients(net, x), expected)


@pytest.mark.parametrize("how", ["levels", "walk"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_gradient_is_held_for_a_piece_of_the_batch_at_a_time(
    rng, device, monkeypatch, how, activation
):
    net = layered(rng, device, sizes=(4, 5, 3), activation=activation)
    x = samples(net, 150, rng)
    monkeypatch.setattr(fused_gpu_pass, "launches", lambda *_: how)
    whole = gradients(net, x)
    offset = torch.randn(150, 12, generator=rng).to(device)
    traced = by_offset(net, x, offset)
    monkeypatch.setattr(fused_gpu_backward, "_PIECE_BYTES", 1)
    monkeypatch.setattr(fused_gpu_backward, "_PROGRAMS", 1)
    monkeypatch.setattr(fused_gpu_backward, "WALKERS", 4)
    spans = []
    original = fused_gpu_pass.Pass.empty

    def recorded(self, rows, span=None):
        spans.append(span)
        return original(self, rows, span)

    monkeypatch.setattr(fused_gpu_pass.Pass, "empty", recorded)
    found = gradients(net, x)
    # Three blocks of 64 samples, or ten of 16, four at a time; forward keeps all.
    pieces = [span for span in spans if span is not None]
    assert pieces == ([64] * 3 if how == "levels" else [64, 64, 32])
    # Only sums over samples may be added in another order.
    assert torch.equal(found[0], whole[0])
    assert torch.equal(found[3], whole[3])
    agree(found, by_reference(net, x))
    assert torch.equal(by_offset(net, x, offset), traced)


def by_offset(net, x, offset):
    offset = offset.clone().requires_grad_()
    trace = net.trace(x, offset=offset)
    loss = trace.values.square().sum() + trace.preactivations.sum()
    return torch.autograd.grad(loss, offset)[0]


def test_sources_with_more_targets_than_a_tile_has_columns(rng, device):
    # Dot products are written once for as many edges as a tile is wide: 8 for a few samples.
    net = layered(rng, device, sizes=(2, 21, 3), fan_in=2, activation="tanh")
    for batch in (3, 20):
        x = samples(net, batch, rng)
        agree(gradients(net, x), by_reference(net, x))


def test_products_take_their_gradient_in_pieces(rng, device, small_products, monkeypatch):
    net = graphnn.Network(CASES["block over two levels"](), backend="fused_gpu", generator=rng)
    net = net.to(device)
    x = samples(net, 130, rng)
    monkeypatch.setattr(fused_gpu_backward, "_PIECE_BYTES", 1)
    monkeypatch.setattr(fused_gpu_backward, "_PROGRAMS", 1)
    agree(gradients(net, x), by_reference(net, x))


# The interpreter computes with numpy, which says where it overflows.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("how", "products"), [("levels", False), ("levels", True), ("walk", False)]
)
def test_columns_without_a_sample_are_in_no_sum(rng, device, monkeypatch, how, products):
    # A sample of zeros would be infinite in level 2 on, and its gradients NaN; those there are not.
    monkeypatch.setattr(fused_gpu_pass, "launches", lambda *_: how)
    if products:
        monkeypatch.setattr(fused_gpu_schedule, "LARGE_BLOCK", 1)
    edges = [[0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4], [2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]]
    names = ["identity"] * 2 + ["square", "square", "square", "square", "square", "abs"]
    graph = graphnn.NeuronGraph(edges, activation=names)
    weight = torch.tensor([1.0] * 8 + [1e-10] * 3)
    bias = torch.tensor([-1e10, -1e10, 0.0, 0.0, 0.0, 0.0])
    net = graphnn.Network(graph, weight, bias, "fused_gpu", device=device)
    x = 5e9 + 3e3 * torch.randn(5, 2, generator=rng).to(device)
    assert not net(torch.zeros(1, 2, device=device)).isfinite().all()
    found = gradients(net, x)
    assert all(part.isfinite().all() for part in found)
    twin = graphnn.Network(graph, net.weight, net.bias, "reference")
    agree(found, gradients(twin, x))


def test_many_pieces_are_not_added_up_in_half_precision(rng, device, small_products, monkeypatch):
    # Level 1 is a product, level 2 is not; what every sample adds is positive.
    edges = [[0, 1, 0, 1, 2, 3, 2], [2, 2, 3, 3, 4, 4, 5]]
    graph = graphnn.NeuronGraph(edges)
    weight, bias = torch.rand(2, 7, generator=rng)
    half = torch.bfloat16
    net = graphnn.Network(graph, weight, bias[:4], "fused_gpu", dtype=half, device=device)
    x = torch.rand(100 * 64, 2, generator=rng).to(device, half) / 64
    monkeypatch.setattr(fused_gpu_backward, "_PIECE_BYTES", 1)
    monkeypatch.setattr(fused_gpu_backward, "_PROGRAMS", 1)
    (found,) = torch.autograd.grad(net(x).sum(), net.weight)
    twin = graphnn.Network(graph, net.weight, net.bias, "reference", dtype=torch.float64)
    (expected,) = torch.autograd.grad(twin(x.double()).sum(), twin.weight)
    assert ((found.double() - expected).abs() <= 6e-3 * expected).all()


def test_one_launch_for_all_levels_has_nothing_beside_it_for_each(rng, device, monkeypatch):
    class Counted(TorchDispatchMode):
        operations = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.operations += 1
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(fused_gpu_pass, "launches", lambda *_: "walk")
    monkeypatch.setattr(fused_gpu_pass.Pass, "launch", lambda *_, **__: None)
    counts = []
    for depth in (3, 30):
        net = layered(rng, device, sizes=(4,) * depth, activation="relu")
        x = samples(net, 5, rng)
        gradients(net, x)
        with Counted() as counted:
            gradients(net, x)
        counts.append(counted.operations)
    assert counts[0] == counts[1] > 0
