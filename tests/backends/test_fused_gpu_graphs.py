"""Captured CUDA graphs: with a stand-in on a CPU, and real ones on a GPU."""

# A gradient is None before the backward pass, and a result may be absent.
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false

import contextlib
import gc
import threading
import weakref

import pytest
import torch
from cases import CASES
from gpu_networks import agree, gradients, layered, samples

import graphnn
from graphnn.backends import (
    fused_gpu,
    fused_gpu_graphs,
    fused_gpu_pass,
    fused_gpu_schedule,
    fused_gpu_tiles,
)
from graphnn.backends.fused_gpu_graphs import Captured, Graphs


class StandIn:
    """Captures by remembering what is to be computed; replays by computing it again."""

    def __init__(self):
        self.made = 0
        self.replayed = 0

    def __call__(self, compute, tensors, multiplies):
        self.made += 1
        with torch.inference_mode(False), torch.no_grad():
            given = tuple(None if t is None else t.clone() for t in tensors)
            results = compute(*given)

        def replay():
            self.replayed += 1
            for own, computed in zip(results, compute(*given), strict=True):
                if own is not None:
                    own.copy_(computed)

        return Captured(replay, given, results)


@pytest.fixture
def stand_in(monkeypatch):
    """Captures every network, by a stand-in."""
    own = StandIn()
    monkeypatch.setattr(fused_gpu_graphs, "capture", own)
    monkeypatch.setattr(fused_gpu_graphs, "can_capture", lambda _device: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    for module in (fused_gpu, fused_gpu_pass):
        monkeypatch.setattr(module, "launches", lambda *_: "graph")
    yield own
    fused_gpu_graphs.release_all()


def equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_a_call_is_captured_when_it_comes_again(rng, device, stand_in):
    net = layered(rng, device)
    x = samples(net, 6, rng)
    expected = gradients(net, x)
    for _ in range(4):
        equal(gradients(net, x), expected)
    # Forward and backward once each; calls three to five are replays.
    assert (stand_in.made, stand_in.replayed) == (2, 6)


def test_replays_see_new_weights_inputs_and_batches(rng, device, stand_in):
    net = layered(rng, device)
    twin = graphnn.Network(net.graph, net.weight.detach(), net.bias.detach(), "fused_gpu")
    for step in range(7):
        x = samples(net, 6 if step % 2 else 3, rng)
        found = gradients(net, x)
        made = stand_in.replayed
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fused_gpu_graphs, "can_capture", lambda _device: False)
            expected = gradients(twin, x)
        assert stand_in.replayed == made
        equal(found, expected)
        with torch.no_grad():
            for one in (net, twin):
                one.weight.mul_(0.9)
                one.bias.add_(0.1)
        if step == 4:
            # In other memory from here on.
            net.weight.data = net.weight.data.clone()
    assert stand_in.replayed > 0


def test_results_do_not_change_with_later_calls(rng, device, stand_in):
    net = layered(rng, device)
    calls = [samples(net, 5, rng) for _ in range(5)]
    plain = [gradients(net, x) for x in calls]
    # All states are alive when the first gradient is taken.
    outputs = [net(x) for x in calls]
    for own, x, expected in zip(outputs, calls, plain, strict=True):
        assert torch.equal(own, expected[0])
        loss = own.square().sum()
        assert torch.equal(torch.autograd.grad(loss, net.weight)[0], expected[1])
        del x
    assert stand_in.replayed > 0


def test_traces_inference_and_inference_mode_are_captured(rng, device, stand_in):
    net = layered(rng, device)
    x, other = samples(net, 5, rng), samples(net, 5, rng)
    offset = torch.randn(5, net.graph.num_neurons, generator=rng).to(device)
    with torch.no_grad():
        expected, traced = net(x), net.trace(x, offset=offset).values
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            for _ in range(3):
                net(other)
                assert torch.equal(net(x), expected)
                assert torch.equal(net.trace(x, offset=offset).values, traced)
    assert stand_in.made == 2


def test_few_are_kept_and_the_plan_takes_them_with_it(rng, device, stand_in, monkeypatch):
    monkeypatch.setattr(fused_gpu_graphs, "_MOST", 8)
    net = layered(rng, device)
    with torch.no_grad():
        for batch in range(1, 12):
            for _ in range(3):
                net(samples(net, batch, rng))
    own = fused_gpu_graphs.graphs(net.plan)
    assert stand_in.made == 11
    assert len(own._kept) == 8
    kept = weakref.ref(own)
    del own, net
    gc.collect()
    assert kept() is None


def test_kinds_that_take_turns_are_all_captured_once(rng, device, stand_in):
    net = layered(rng, device)
    for _ in range(6):
        for batch in range(1, 12):
            net(samples(net, batch, rng)).sum().backward()
    # Forward and backward.
    assert stand_in.made == 2 * 11


def test_no_more_kinds_are_counted_than_there_is_room_for(rng, device, stand_in, monkeypatch):
    monkeypatch.setattr(fused_gpu_graphs, "_COUNTED", 3)
    net = layered(rng, device)
    with torch.no_grad():
        for batch in [1, 1, 2, 3, 4, 1, 4, 4]:
            net(samples(net, batch, rng))
    # 4 has come often enough; 1 was forgotten meanwhile.
    assert stand_in.made == 1
    counts = fused_gpu_graphs.graphs(net.plan)._counts
    assert list(counts.values()) == [1, 1]


def test_captures_are_let_go_where_they_hold_much(monkeypatch):
    monkeypatch.setattr(fused_gpu_graphs, "capture", StandIn())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    monkeypatch.setattr(fused_gpu_graphs, "_MOST_BYTES", 100)
    own = Graphs(False)
    # Each reads and writes 8 bytes a number.
    for count, kept in ((4, 1), (5, 2), (2, 3), (50, 2), (1, 2)):
        for _ in range(3):
            own.run("key", lambda numbers: (numbers + 1,), (torch.ones(count),))
        assert len(own._kept) == kept
    # The last two, whatever they hold.
    assert [found.num_bytes for found in own._kept.values()] == [400, 8]


def test_a_step_that_holds_much_is_captured_once(rng, device, stand_in, monkeypatch):
    monkeypatch.setattr(fused_gpu_graphs, "_MOST_BYTES", 1)
    net = layered(rng, device)
    for _ in range(6):
        net(samples(net, 3, rng)).sum().backward()
    assert stand_in.made == 2


def test_a_kind_that_failed_is_remembered_whatever_others_hold(rng, device, stand_in, monkeypatch):
    tries = []

    def fails(compute, tensors, multiplies):
        tries.append(1)
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr(fused_gpu_graphs, "_MOST_BYTES", 1)
    net = layered(rng, device)
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(fused_gpu_graphs, "capture", fails)
        for _ in range(2):
            net(samples(net, 1, rng))
        with pytest.warns(UserWarning, match="could not capture"):
            net(samples(net, 1, rng))
        for batch in (2, 3, 4, 5):
            patch.setattr(fused_gpu_graphs, "capture", stand_in)
            for _ in range(4):
                net(samples(net, batch, rng))
        patch.setattr(fused_gpu_graphs, "capture", fails)
        net(samples(net, 1, rng))
    assert tries == [1]


MATMUL = torch.backends.cuda.matmul


@contextlib.contextmanager
def unchanged_precisions():
    """What matrix products depend on, as it was before."""
    names = ["fp32_precision", "allow_fp16_accumulation"]
    names += [f"allow_{half}_reduced_precision_reduction" for half in ("fp16", "bf16")]
    before = {name: getattr(MATMUL, name) for name in names}
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(MATMUL, name, value)
        torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize(
    "change",
    [
        lambda: setattr(MATMUL, "fp32_precision", "tf32"),
        lambda: setattr(MATMUL, "allow_bf16_reduced_precision_reduction", False),
        lambda: setattr(MATMUL, "allow_fp16_reduced_precision_reduction", False),
        lambda: setattr(MATMUL, "allow_fp16_accumulation", True),
        lambda: torch.use_deterministic_algorithms(True),
    ],
)
def test_a_capture_has_the_precision_that_it_was_made_with(rng, device, stand_in, change):
    net = layered(rng, device)
    x = samples(net, 3, rng)

    def call():
        with torch.no_grad():
            net(x)

    for _ in range(3):
        call()
    with unchanged_precisions():
        change()
        call()
        assert (stand_in.made, stand_in.replayed) == (1, 1)
    call()
    assert (stand_in.made, stand_in.replayed) == (1, 2)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("too much"), RuntimeError("Triton Error [CUDA]: out of memory")],
)
def test_a_capture_without_memory_is_tried_again_later(rng, device, stand_in, monkeypatch, error):
    def fails(compute, tensors, multiplies):
        raise error

    net = layered(rng, device)
    x = samples(net, 3, rng)
    with torch.no_grad():
        expected = net(x)
        net(x)
        with monkeypatch.context() as patch:
            patch.setattr(fused_gpu_graphs, "capture", fails)
            # Without it, once all captures have been given back.
            assert torch.equal(net(x), expected)
        for _ in range(3):
            assert torch.equal(net(x), expected)
    assert stand_in.made == 1


def test_threads_share_a_capture(rng, device, stand_in):
    net = layered(rng, device)
    x = [samples(net, 4, rng) for _ in range(2)]
    with torch.no_grad():
        expected = [net(one) for one in x]
    failed = []

    def work(which):
        with torch.no_grad():
            for _ in range(10):
                if not torch.equal(net(x[which]), expected[which]):
                    failed.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert stand_in.made == 1


def test_nothing_is_captured_while_the_user_captures(monkeypatch):
    gpu = torch.device("cuda")
    for capturing in (True, False):
        answer = {"is_current_stream_capturing": lambda capturing=capturing: capturing}
        for name, function in answer.items():
            monkeypatch.setattr(torch.cuda, name, function)
        assert fused_gpu_graphs.can_capture(gpu) is not capturing
    assert not fused_gpu_graphs.can_capture(torch.device("cpu"))


def test_a_capture_that_fails_is_told_once_and_the_results_are_right(monkeypatch):
    tries = []

    def fails(compute, tensors, multiplies):
        tries.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(fused_gpu_graphs, "capture", fails)

    def double(numbers):
        return 2 * numbers, None

    own, two = Graphs(False), torch.tensor([2.0])
    for _ in range(2):
        own.run("key", double, (two,))
    with pytest.warns(UserWarning, match=r"could not capture.*not permitted.*capturing\) and goes"):
        assert own.run("key", double, (two,))[0].item() == 4
    assert own.run("key", double, (two,)) == (torch.tensor([4.0]), None)
    assert len(tries) == 1


class Machine:
    """What a capture asks torch.cuda for, and in what order.

    Args:
        monkeypatch: Puts it in the place of torch.cuda.
        wrong: Where the capture goes wrong: in a "launch", or at its "end"; None, nowhere.
    """

    def __init__(self, monkeypatch, wrong=None):
        self.log, self.wrong, self.under_way = [], wrong, False
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "a pool")
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the current stream")
        monkeypatch.setattr(fused_gpu_graphs, "_stream_of_captures", lambda _device: "another")
        for name in ("graph", "stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.forget, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self.release, raising=False)
        clear = "_cuda_clearCublasWorkspaces"
        monkeypatch.setattr(torch._C, clear, lambda: self.log.append("clear"), raising=False)

    def replay(self):
        self.log.append("replay")

    @contextlib.contextmanager
    def stream(self, own):
        assert own == "the current stream"
        try:
            yield
        finally:
            self.log.append("restore")

    @contextlib.contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        assert graph is self
        assert (pool, stream) == ("a pool", "another")
        assert capture_error_mode == "thread_local"
        assert not fused_gpu_graphs._CAPTURING.acquire(blocking=False)
        self.log.append("begin")
        self.under_way = True
        try:
            yield
        finally:
            self.log.append("end")
            if self.wrong == "end":
                # As in torch: the allocator is not told that the capture has ended.
                raise RuntimeError("capture invalidated")
            self.under_way = False

    def forget(self, _device, pool):
        assert pool == "a pool"
        if not self.under_way:
            raise RuntimeError("not currently recording to mempool_id")
        self.under_way = False

    def release(self, _device, pool):
        assert pool == "a pool"
        self.log.append("release")

    def compute(self, x, nothing):
        self.log.append("compute")
        assert nothing is None
        assert not torch.is_grad_enabled()
        if self.wrong == "launch" and self.under_way:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return (x + 1, None)


def test_what_is_captured_has_run_before_and_outlives_inference_mode(monkeypatch):
    machine = Machine(monkeypatch)
    with torch.inference_mode():
        made = fused_gpu_graphs.capture(machine.compute, (torch.ones(2).expand(3, 2), None), True)
    assert not made.given[0].is_inference()
    assert not made.results[0].is_inference()
    with torch.no_grad():
        first, second = (made((torch.full((3, 2), 5.0), None))[0] for _ in range(2))
    assert torch.equal(made.given[0], torch.full((3, 2), 5.0))
    assert first.data_ptr() != second.data_ptr()
    recorded = ["clear", "begin", "compute", "end", "restore", "clear"]
    assert machine.log == ["compute", *recorded, "replay", "replay"]


@pytest.mark.parametrize(
    ("wrong", "message", "released"),
    # What ended in order gives its pool back itself.
    [("launch", "too much", []), ("end", "invalidated", ["release"])],
)
def test_a_capture_that_fails_leaves_all_as_it_was(monkeypatch, wrong, message, released):
    machine = Machine(monkeypatch, wrong)
    with pytest.raises(RuntimeError, match=message):
        fused_gpu_graphs.capture(machine.compute, (torch.ones(2), None), True)
    # What else failed gives its pool back before.
    recorded = ["clear", "begin", "compute", "end", "restore", *released, "clear"]
    assert machine.log == ["compute", *recorded]
    assert not machine.under_way
    assert fused_gpu_graphs._CAPTURING.acquire(blocking=False)
    fused_gpu_graphs._CAPTURING.release()


def test_what_multiplies_nothing_leaves_the_workspaces_of_others(monkeypatch):
    machine = Machine(monkeypatch)
    fused_gpu_graphs.capture(machine.compute, (torch.ones(2), None), False)
    assert machine.log == ["compute", "begin", "compute", "end", "restore"]


@pytest.mark.parametrize("multiplies", [False, True])
def test_a_plan_with_products_says_so(rng, device, stand_in, monkeypatch, multiplies):
    told = []
    if multiplies:
        monkeypatch.setattr(fused_gpu_schedule, "LARGE_BLOCK", 1)
    own = stand_in.__call__
    monkeypatch.setattr(
        fused_gpu_graphs, "capture", lambda *given: told.append(given[2]) or own(*given)
    )
    net = graphnn.Network(CASES["block over two levels"](), backend="fused_gpu", generator=rng)
    net = net.to(device)
    with torch.no_grad():
        for _ in range(3):
            net(samples(net, 3, rng))
    assert told == [multiplies]


def test_the_captures_of_a_device_share_a_stream(monkeypatch):
    made = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or len(made))
    fused_gpu_graphs._stream_of_captures.cache_clear()
    devices = [torch.device("cuda", index) for index in (0, 1, 0)]
    assert [fused_gpu_graphs._stream_of_captures(device) for device in devices] == [1, 2, 1]
    fused_gpu_graphs._stream_of_captures.cache_clear()


def test_which_networks_are_captured(rng):
    # Deep and a thousand wide, a few samples: too much work for programs that walk alone, too
    # little for launches by Python.
    from graphnn.backends.fused_gpu_schedule import schedule

    def how(width, depth, fan_in, batch):
        graph = graphnn.generate.random_sparse([width] * (depth + 1), fan_in=fan_in, generator=rng)
        return fused_gpu_tiles.launches(schedule(graphnn.build_plan(graph)), batch, 4)

    assert how(1024, 100, 8, 64) == "graph"
    assert how(16, 100, 8, 64) == "walk"
    assert how(16, 2, 8, 1) == "walk"
    assert how(1024, 3, 64, 64) == "levels"
    assert how(16384, 3, 4, 65536) == "levels"
    assert how(16, 3, 8, 0) == "levels"


def test_a_step_can_be_captured_and_replayed(rng, on_gpu):
    net = layered(rng, on_gpu)
    x = samples(net, 64, rng)
    twin = graphnn.Network(net.graph, net.weight, net.bias, "fused_gpu", device=on_gpu)
    replayed = torch.cuda.make_graphed_callables(twin, (x.clone(),))
    for scale in (1.0, 2.0):
        with torch.no_grad():
            net.weight.mul_(scale)
            twin.weight.mul_(scale)
        for batch in (x, 3 * x):
            net.zero_grad()
            twin.zero_grad()
            net(batch).square().sum().backward()
            replayed(batch).square().sum().backward()
            assert torch.equal(twin.weight.grad, net.weight.grad)


def test_real_captures_give_the_same_bits(rng, on_gpu, monkeypatch):
    net = layered(rng, on_gpu, sizes=(5, *[9] * 30, 4))
    for module in (fused_gpu, fused_gpu_pass):
        monkeypatch.setattr(module, "launches", lambda *_: "levels")
    batches = [samples(net, batch, rng) for batch in (64, 33, 64)]
    expected = [gradients(net, x) for x in batches]
    for module in (fused_gpu, fused_gpu_pass):
        monkeypatch.setattr(module, "launches", lambda *_: "graph")
    for _ in range(5):
        for x, own in zip(batches, expected, strict=True):
            equal(gradients(net, x), own)
    kept = fused_gpu_graphs.graphs(net.plan)._kept.values()
    assert sum(isinstance(one, Captured) for one in kept) == 4
    fused_gpu_graphs.release_all()
    equal(gradients(net, batches[0]), expected[0])


def test_real_captures_take_matrix_products_up(rng, on_gpu, small_products, monkeypatch):
    net = graphnn.Network(CASES["block over two levels"](), backend="fused_gpu", generator=rng)
    net = net.to(on_gpu)
    x = samples(net, 64, rng)
    expected = gradients(net, x)
    for module in (fused_gpu, fused_gpu_pass):
        monkeypatch.setattr(module, "launches", lambda *_: "graph")
    for _ in range(5):
        agree(gradients(net, x), expected)
    kept = fused_gpu_graphs.graphs(net.plan)._kept.values()
    assert sum(isinstance(one, Captured) for one in kept) == 2


def test_a_capture_survives_others_that_had_products_too(rng, on_gpu, small_products, monkeypatch):
    for module in (fused_gpu, fused_gpu_pass):
        monkeypatch.setattr(module, "launches", lambda *_: "graph")
    nets = [
        graphnn.Network(CASES["block over two levels"](), backend="fused_gpu", generator=rng)
        for _ in range(2)
    ]
    first, second = (net.to(on_gpu) for net in nets)
    x = samples(first, 9, rng)
    with torch.no_grad():
        expected = [net(x) for _ in range(4) for net in (first, second)][-1]
        fused_gpu_graphs.graphs(first.plan).release()
        torch.cuda.empty_cache()
        filling = [torch.full((1 << 20,), torch.nan, device=on_gpu) for _ in range(64)]
        assert torch.equal(second(x), expected)
    assert all(part.isnan().all() for part in filling)


def test_after_a_real_capture_that_fails_others_work(on_gpu):
    def waits(x):
        # A stream that is captured cannot be waited for.
        torch.cuda.current_stream().synchronize()
        return (x + 1,)

    x = torch.ones(3, device=on_gpu)
    with pytest.raises(RuntimeError):
        fused_gpu_graphs.capture(waits, (x,), True)
    made = fused_gpu_graphs.capture(lambda own: (own + 1,), (x,), True)
    assert torch.equal(made((2 * x,))[0], 3 * x)
