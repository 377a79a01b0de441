"""What calls launch compiles for a GPU with the types, alignments and constants that they give.

No GPU is needed: kernels are compiled where they would be launched, and nothing is computed.
"""

import os

import pytest
import torch
from gpu_networks import layered, samples

import graphnn
from graphnn import generate
from graphnn.backends import fused_gpu, fused_gpu_pass

triton = pytest.importorskip("triton")

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled"
)


class Hopper:
    """Stands in for the driver of a GPU, which a compiler asks only what to compile for."""

    # A number that no real one has: kernels are kept by device.
    def get_current_device(self):
        return -1

    def get_current_stream(self, _device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def compiled(monkeypatch):
    """(name, code) of all that would have been launched."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    found = []

    def compiling(self, grid):
        assert len(grid) == 1
        assert 0 < grid[0] < 2**31

        def launch(*arguments, **constants):
            made = self.warmup(*arguments, grid=grid, **constants)
            found.append((self.fn.__name__, made.asm))

        return launch

    monkeypatch.setattr(driver, "_active", Hopper())
    monkeypatch.setattr(JITFunction, "__getitem__", compiling)
    monkeypatch.setattr(fused_gpu, "no_kernels_on", lambda _device: [])
    return found


# How wide a thread reads values of a type.
WIDE = {
    torch.float32: "ld.global.v4.b32",
    torch.float64: "ld.global.v2.b64",
    torch.bfloat16: "ld.global.v2.b32",
}


@pytest.mark.parametrize(
    ("how", "dtype", "batch"),
    [
        ("levels", torch.float32, 3),
        ("levels", torch.float32, 70),
        ("walk", torch.float32, 3),
        ("walk", torch.float32, 70),
        ("walk", torch.float64, 3),
        ("walk", torch.bfloat16, 3),
    ],
)
def test_a_training_step_compiles(rng, compiled, monkeypatch, how, dtype, batch):
    monkeypatch.setattr(fused_gpu_pass, "launches", lambda *_: how)
    # As wide as the tile of a walk with the most warps.
    net = layered(rng, "cpu", sizes=(5, 300, 9, 4), activation="relu", dtype=dtype)
    net(samples(net, batch, rng).requires_grad_()).sum().backward()
    every = {"walk": {"forward_walk", "backward_walk"}, "levels": {"forward_level"}}
    every["levels"].add("backward_level")
    assert {name for name, _ in compiled} == every[how]
    for _, asm in compiled:
        assert asm["cubin"]
        code = asm["ptx"]
        assert ".atom" not in code
        assert WIDE[dtype] in code
        # Threads that hand every edge to one another meet some forty times.
        assert code.count("bar.sync") + code.count("barrier.sync") < 16


def test_neurons_that_read_the_same_compile(compiled, monkeypatch):
    monkeypatch.setattr(fused_gpu_pass, "launches", lambda *_: "levels")
    graph = generate.radixnet(64, 2)
    net = graphnn.Network(graph, torch.ones(graph.num_edges), backend="fused_gpu")
    with torch.no_grad():
        net(torch.ones(70, 64))
    assert [name for name, _ in compiled] == ["forward_fours"] * 2
    for _, asm in compiled:
        assert "ld.global.v4.b32" in asm["ptx"]
        # What a source has is read once, for four sums.
        code = asm["ptx"]
        assert code.count("fma.rn.f32") == 4 * 4 * code.count("ld.global.v4.b32")
        assert code.count("bar.sync") + code.count("barrier.sync") < 16


def test_an_attribution_compiles(rng, compiled, monkeypatch):
    monkeypatch.setattr(fused_gpu_pass, "launches", lambda *_: "levels")
    net = layered(rng, "cpu")
    offset = torch.zeros(3, net.graph.num_neurons, requires_grad=True)
    trace = net.requires_grad_(False).trace(samples(net, 3, rng), offset=offset)
    trace.values.sum().backward()
    assert {name for name, _ in compiled} == {"forward_level", "backward_level"}


@pytest.mark.parametrize("dtype", WIDE)
def test_triplets_compile(compiled, dtype):
    from graphnn.triplet_gpu_kernels import write_triplets

    ends, edges = torch.zeros(2, 40, dtype=torch.int64), torch.arange(7)
    for values in (torch.zeros(3, 10, dtype=dtype), torch.zeros(10, 3, dtype=dtype).t()):
        out = values.new_empty(3, 7, 3)
        write_triplets(values, values.new_zeros(40), values, ends, edges, out)
    assert [name for name, _ in compiled] == ["write_numbers"] * 2
    for _, asm in compiled:
        # Neighbours are stored by neighbours, which is nothing that threads have to meet for.
        assert "bar.sync" not in asm["ptx"]
        assert "barrier.sync" not in asm["ptx"]
