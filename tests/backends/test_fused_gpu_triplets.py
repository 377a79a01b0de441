"""Triplets by the GPU's kernel: on a GPU, or on a CPU in Triton's interpreter."""

# Arguments travel as tuples, gradients and tangents are None before they are taken, and fake
# tensors stand in for a GPU's.
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportAssignmentType=false, reportOptionalSubscript=false

import os
import re

import pytest
import torch
from gpu_networks import layered, samples
from torch._subclasses.fake_tensor import FakeTensorMode

from graphnn import triplets as own
from graphnn.backends import fused_gpu, transforms

triton = pytest.importorskip("triton")

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def numbers(rng, device, batch=5, neurons=11, num_edges=37, dtype=torch.float32):
    """(values, weight, at_target, edge_index): any numbers, for edges between any neurons."""
    values, at_target = (torch.randn(batch, neurons, generator=rng).to(dtype) for _ in range(2))
    weight = torch.randn(num_edges, generator=rng).to(dtype)
    edge_index = torch.randint(neurons, (2, num_edges), generator=rng)
    return tuple(made.to(device) for made in (values, weight, at_target, edge_index))


def written(write, values, weight, at_target, edge_index, edges):
    out = values.new_full((values.shape[0], edges.numel(), 3), torch.nan)
    write(values, weight, at_target, edge_index, edges, out)
    return out


def by_torch(values, weight, at_target, edge_index, edges):
    source, target = edge_index[:, edges]
    at_edge = weight[edges].expand(values.shape[0], -1)
    return torch.stack([values[:, source], at_edge, at_target[:, target]], -1)


@pytest.fixture
def by_kernel(monkeypatch):
    """Has every trace ask the kernel, on a CPU too; how often it did is in the list."""
    sizes = []

    def write(*arguments):
        sizes.append(arguments[4].numel())
        own.write_on_gpu(*arguments)

    monkeypatch.setattr(own, "writer", lambda *_: write)
    return sizes


# Pieces of 512 numbers of up to 16 samples, four at a time: on, before and behind their ends.
@pytest.mark.parametrize("batch", [0, 1, 3, 4, 17])
@pytest.mark.parametrize("count", [0, 1, 2, 170, 171, 512, 1025])
def test_gives_the_bits_of_the_compiled_loops(rng, device, batch, count):
    given = numbers(rng, device, batch, 50, 300)
    given[0][:, ::7] = torch.nan
    given[2][:, ::5] = -0.0
    edges = torch.randint(300, (count,), generator=rng).to(device)
    found = written(own.write_on_gpu, *given, edges).cpu()
    expected = written(own.write_on_cpu, *(one.cpu() for one in given), edges.cpu())
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(rng, device, dtype):
    given = numbers(rng, device, dtype=dtype)
    edges = torch.randperm(37, generator=rng).to(device)
    assert torch.equal(written(own.write_on_gpu, *given, edges), by_torch(*given, edges))


def test_states_and_ids_of_any_strides(rng, device):
    values, weight, at_target, edge_index = numbers(rng, device)
    edges = torch.arange(37, device=device)
    expected = by_torch(values, weight, at_target, edge_index, edges)
    wide = values.new_zeros(10, 33)
    wide[::2, 1::3] = values
    given = (
        wide[::2, 1::3], weight.repeat_interleave(2)[::2], at_target.t().contiguous().t(),
        edge_index.t().contiguous().t(), edges.repeat_interleave(3)[::3],
    )  # fmt: skip
    assert not any(one.is_contiguous() for one in given)
    assert torch.equal(written(own.write_on_gpu, *given), expected)


@pytest.mark.parametrize("by_neuron", [False, True])
def test_places_that_32_bits_do_not_count(device, by_neuron):
    # What nobody writes takes no memory.
    storage = torch.empty(2**31 + 1, dtype=torch.float16, device=device)
    strides = (1, 2**30) if by_neuron else (2**30, 1)
    state = storage.as_strided((1, 3) if by_neuron else (3, 1), strides)
    state.flatten().copy_(torch.arange(3)) if by_neuron else state[:, 0].copy_(torch.arange(3))
    end = 2 if by_neuron else 0
    edge_index = torch.full((2, 1), end, device=device)
    weight, edges = torch.ones(1, dtype=torch.float16, device=device), edge_index[0, :1] * 0
    found = written(own.write_on_gpu, state, weight, state, edge_index, edges)
    assert found[-1].tolist() == [[2, 1, 2]]


@pytest.mark.parametrize("target", ["value", "preactivation"])
def test_traces_ask_for_it(rng, device, by_kernel, target):
    net = layered(rng, device)
    trace = net.trace(samples(net, 6, rng).view(2, 3, -1))
    states = [trace.values, trace.values if target == "value" else trace.preactivations]
    flat = [state.reshape(6, -1) for state in states]

    def expected(edges):
        made = by_torch(flat[0], net.weight, flat[1], net.graph.to(device).edge_index, edges)
        return made.view(2, 3, -1, 3)

    levels = trace.triplets(target)
    for level, found in enumerate(levels, 1):
        assert torch.equal(found, expected(net.graph.edges_of_level(level).to(device)))
    for edges, found in trace.iter_triplets(10, target):
        assert torch.equal(found, expected(edges.to(device)))
    assert torch.equal(trace.triplets_of([3, 3, 1], target), expected(torch.tensor([3, 3, 1])))
    assert trace.triplets_of([], target).shape == (2, 3, 0, 3)
    assert by_kernel == [27, 27, 12, 10, 10, 10, 10, 10, 10, 6, 3, 0]


def test_gradients_are_those_of_torch(rng, device, by_kernel):
    values, weight, at_target, edge_index = numbers(rng, device, dtype=torch.float64)
    edges = torch.randint(37, (80,), generator=rng).to(device)
    factor = torch.randn(5, 80, 3, generator=rng, dtype=torch.float64).to(device)
    results = []
    for make in (own.triplets, by_torch):
        leaves = [one.clone().requires_grad_() for one in (values, weight, at_target)]
        loss = (make(*leaves, edge_index, edges) ** 2 * factor).sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum((one**2).sum() for one in first), leaves)
        results.append((*first, *second))
    assert by_kernel == [80]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_only_what_needs_a_gradient_gets_one(rng, device, by_kernel):
    values, weight, at_target, edge_index = numbers(rng, device)
    weight.requires_grad_()
    own.triplets(
        values, weight, at_target, edge_index, torch.arange(3, device=device)
    ).sum().backward()
    assert weight.grad.tolist() == [5.0] * 3 + [0.0] * 34


def test_gradients_repeat(rng, on_gpu):
    given = numbers(rng, on_gpu, 64, 20, 5000)
    edges = torch.randint(5000, (20_000,), generator=rng).to(on_gpu)
    results = []
    for _ in range(3):
        leaves = [one.clone().requires_grad_() for one in given[:3]]
        loss = own.triplets(*leaves, given[3], edges).square().sum()
        results.append(torch.autograd.grad(loss, leaves))
    for again in results[1:]:
        assert all(map(torch.equal, again, results[0]))


def test_a_gpu_that_has_triton_is_asked(monkeypatch):
    monkeypatch.setattr(transforms, "is_plain", lambda *_: True)
    monkeypatch.setattr(fused_gpu, "no_kernels_on", lambda _: [])
    with FakeTensorMode():
        single, double, whole = (
            torch.ones(2, 2, device="cuda", dtype=dtype)
            for dtype in (torch.float32, torch.float64, torch.int64)
        )
    assert own.writer(single, single, single) is own.write_on_gpu
    assert own.writer(single, double, single) is None
    assert own.writer(whole, whole, whole) is None
    monkeypatch.setattr(fused_gpu, "no_kernels_on", lambda _: ["too old"])
    assert own.writer(single, single, single) is None


def test_transforms_see_torch_operations(rng):
    values, weight, at_target, edge_index = numbers(rng, "cpu")
    edges = torch.arange(37)
    expected = by_torch(values, weight, at_target, edge_index, edges)
    asked = []

    def make(row, end):
        asked.append(own.writer(row[None], weight, end[None]))
        return own.triplets(row[None], weight, end[None], edge_index, edges)[0]

    assert torch.equal(torch.func.vmap(make)(values, at_target), expected)
    _, tangent = torch.func.jvp(lambda row: make(row, at_target[0]), (values[0],), (values[0],))
    assert torch.equal(tangent[:, 0], expected[0, :, 0])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(values, values)
        found = own.triplets(dual, weight, at_target, edge_index, edges)
        assert torch.equal(
            torch.autograd.forward_ad.unpack_dual(found).tangent[..., 0], expected[..., 0]
        )
    assert asked == [None, None]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled")
@pytest.mark.parametrize("value", ["fp32", "fp64", "fp16", "bf16"])
def test_compiles_for_hopper(value):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from graphnn import triplet_gpu_kernels

    kernel = triplet_gpu_kernels.write_numbers
    constants = {"COLS": 512, "SAMPLES": 16, "stride": 1, "stride_at_target": 1}
    pointers = dict.fromkeys(["values", "at_target", "weight", "out"], value)
    pointers |= {"ends": "i64", "edges": "i64"}
    signature = {
        name: "constexpr"
        if name in constants
        else f"*{pointers[name]}"
        if name in pointers
        else "i32"
        for name in kernel.arg_names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name in pointers
    }
    compiled = triton.compile(
        ASTSource(kernel, signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": 4, "enable_fp_fusion": True},
    )
    places = re.findall(r"tt\.addptr .*[<x ](i\d+)>? loc", compiled.asm["ttir"])
    assert places == ["i64"] * 13
    code = compiled.asm["ptx"]
    # Neighbours are stored by neighbours, so nothing is handed from thread to thread.
    assert "st.global.cs" in code
    assert "bar.sync" not in code
