"""What the GPU backend does where its memory is too small."""

import gc
import weakref

import pytest
import torch
from cases import CASES
from gpu_networks import agree, by_reference, gradients, layered, samples

import graphnn
from graphnn.backends import (
    dense,
    fused_gpu_graphs,
    fused_gpu_memory,
    fused_gpu_pass,
    fused_gpu_schedule,
)
from graphnn.backends.fused_gpu_memory import Size


def test_too_little_memory_is_told_and_the_process_goes_on(rng, device, monkeypatch):
    net = layered(rng, device)
    x = samples(net, 5, rng)
    expected = gradients(net, x)
    original = fused_gpu_pass.Pass.empty

    def fails(self, rows, span=None):
        raise torch.OutOfMemoryError("No memory. Tried to allocate 3.00 GiB. And much more.")

    monkeypatch.setattr(fused_gpu_pass.Pass, "empty", fails)
    message = (
        r"'fused_gpu' has too little memory on .* for 27 neurons, 66 edges and 5 samples in "
        r"torch.float32.*\(No memory. Tried to allocate 3.00 GiB\).*smaller batches"
    )
    for call in (net, net.trace, torch.no_grad()(net)):
        with pytest.raises(graphnn.BackendError, match=message) as caught:
            call(x)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
    monkeypatch.setattr(fused_gpu_pass.Pass, "empty", original)
    outputs = net(x)
    monkeypatch.setattr(fused_gpu_pass.Pass, "empty", fails)
    with pytest.raises(graphnn.BackendError, match=message):
        outputs.sum().backward()
    monkeypatch.setattr(fused_gpu_pass.Pass, "empty", original)
    for one, other in zip(gradients(net, x), expected, strict=True):
        assert torch.equal(one, other)


def test_a_network_of_products_tells_it_too(rng, device, small_products, monkeypatch):
    net = graphnn.Network(CASES["dense"](), backend="fused_gpu", generator=rng).to(device)
    x = samples(net, 5, rng)
    expected = gradients(net, x)

    def fails(*_arguments):
        raise torch.OutOfMemoryError("No memory. Tried to allocate 3.00 GiB. And much more.")

    message = r"'fused_gpu' has too little memory on .* a training step .*smaller batches"
    for name in ("_Forward", "_Backward"):
        with monkeypatch.context() as patch:
            outputs = net(x) if name == "_Backward" else None
            patch.setattr(dense, name, fails)
            with pytest.raises(graphnn.BackendError, match=message):
                (net(x) if outputs is None else outputs).sum().backward()
    for one, other in zip(gradients(net, x), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("trace", [False, True])
def test_a_loss_holds_nothing_of_its_call_once_it_is_differentiated(
    rng, device, monkeypatch, products, trace
):
    if products:
        monkeypatch.setattr(fused_gpu_schedule, "LARGE_BLOCK", 1)
    net = graphnn.Network(CASES["dense"](), backend="fused_gpu", generator=rng).to(device)
    x = samples(net, 5, rng)
    offset = torch.zeros(5, net.graph.num_neurons, device=device)
    loss = (net.trace(x, offset=offset).values if trace else net(x)).sum()
    loss.backward()
    held = weakref.ref(x), weakref.ref(offset)
    del x, offset
    gc.collect()
    assert [one() for one in held] == [None, None]
    assert loss.isfinite()


def test_frees_what_a_failed_call_held(rng, on_gpu):
    net = layered(rng, on_gpu, sizes=(64, 4096, 64), fan_in=8)
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(on_gpu)[0]
    # The inputs fit, the state of a training step does not.
    batch = int(0.6 * free / (4 * 4096))
    x = torch.zeros(batch, 64, device=on_gpu)
    with pytest.raises(graphnn.BackendError, match=r"enough for about \d+ samples"):
        net(x).sum().backward()
    small = samples(net, 100, rng)
    agree(gradients(net, small), by_reference(net, small))
    with torch.no_grad():
        assert net(x).shape == (batch, 64)


def test_an_inference_is_tried_again_in_smaller_pieces(rng, device, monkeypatch):
    net = layered(rng, device, sizes=(6,) * 6, activation="relu")
    x = samples(net, 150, rng)
    with torch.no_grad():
        expected = net(x)
    original, made = fused_gpu_pass.Pass.empty, []

    def small(self, rows, span=None):
        if self.stride > 64:
            raise torch.OutOfMemoryError("tried to allocate too much")
        made.append(self.stride)
        return original(self, rows, span)

    monkeypatch.setattr(fused_gpu_pass.Pass, "empty", small)
    monkeypatch.setattr(fused_gpu_pass, "_SMALL_STATE", 12 * 4 * 192)
    with torch.no_grad():
        assert torch.equal(net(x), expected)
    assert made == [64, 64, 32]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_others_say_where_memory_ends_is_told_too(rng, device, monkeypatch, error):
    def fails(self, rows, span=None):
        raise error

    net = layered(rng, device)
    monkeypatch.setattr(fused_gpu_pass.Pass, "empty", fails)
    with pytest.raises(graphnn.BackendError, match=r"too little memory on .*Give smaller batches"):
        net(samples(net, 5, rng))


def test_other_errors_stay_what_they_are(rng, device, monkeypatch):
    def fails(self, rows, span=None):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    net = layered(rng, device)
    monkeypatch.setattr(fused_gpu_pass.Pass, "empty", fails)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        net(samples(net, 5, rng))


def test_captures_are_released_before_the_second_try(rng, device, monkeypatch):
    net = layered(rng, device)
    x = samples(net, 5, rng)
    expected = gradients(net, x)
    released, original = [], fused_gpu_pass.Pass.empty

    def full(self, rows, span=None):
        if not released:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return original(self, rows, span)

    monkeypatch.setattr(fused_gpu_pass.Pass, "empty", full)
    monkeypatch.setattr(fused_gpu_graphs, "release_all", lambda: released.append(1))
    outputs = net(x)
    assert torch.equal(outputs, expected[0])
    released.clear()
    by_weight = torch.autograd.grad(outputs.square().sum(), net.weight)[0]
    assert torch.equal(by_weight, expected[1])
    assert released == [1]


def test_says_what_is_needed_what_is_free_and_what_fits(rng, device, monkeypatch):
    net = layered(rng, device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (2**16, 2**30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    def fails():
        raise torch.OutOfMemoryError("No memory. Tried to allocate 1.00 GiB. More.")

    size = Size(net.plan, 700, torch.float32, torch.device("cuda", 0), "outputs", False)
    a_sample, fixed = fused_gpu_memory.needed_bytes(size, trains=True)
    # Values and preactivations of 27 neurons, four outputs twice; three numbers an edge.
    assert (a_sample, fixed) == (4 * (2 * 27 + 2 * 4), 66 * 12)
    message = (
        r"a training step takes about 0.00 GiB beside the network, and 0.00 GiB of 1.00 GiB are "
        rf"free, enough for about {(2**16 - fixed) // a_sample} samples \(No memory. Tried to "
        r"allocate 1.00 GiB\). Give smaller batches, or run under torch.no_grad"
    )
    with pytest.raises(graphnn.BackendError, match=message):
        fused_gpu_memory.within_memory(fails, fails, size, trains=True)
    with pytest.raises(graphnn.BackendError, match=r"this call takes .* Give smaller batches\.$"):
        fused_gpu_memory.within_memory(fails, fails, size, trains=False)
