"""The pool of threads of the compiled backends."""

import gc
import os
import threading
import weakref

import pytest
import torch

from graphnn.backends import threads


def test_every_part_runs_once_in_a_thread_of_its_own():
    together = threading.Barrier(3, timeout=20)
    ran = []

    def work(part):
        together.wait()  # Breaks unless three threads are here at the same time.
        ran.append((part, threading.get_ident()))

    threads.share(work, 3)
    assert sorted(part for part, _ in ran) == [0, 1, 2]
    assert len({thread for _, thread in ran}) == 3
    assert dict(ran)[0] == threading.get_ident()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failure_is_raised_after_all_have_ended(failing):
    ended = []

    def work(part):
        if part == failing:
            raise ArithmeticError(f"part {part}")
        ended.append(part)

    with pytest.raises(ArithmeticError, match=f"part {failing}"):
        threads.share(work, 3)
    assert sorted([*ended, failing]) == [0, 1, 2]
    # The threads are still there.
    threads.share(ended.append, 3)
    assert len(ended) == 5


def test_callers_in_several_threads_get_their_own_results():
    found = [[0] * 3 for _ in range(8)]

    def call(caller):
        for _ in range(50):
            threads.share(lambda part: found[caller].__setitem__(part, caller + part), 3)

    callers = [threading.Thread(target=call, args=(caller,)) for caller in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [[caller, caller + 1, caller + 2] for caller in range(8)]


def test_nothing_of_a_call_is_kept():
    class Work:
        def __call__(self, part):
            pass

    work = Work()
    alive = weakref.ref(work)
    threads.share(work, 2)
    # The threads may still be letting go of it when the call returns.
    threads.share(lambda part: None, 2)
    del work
    gc.collect()
    assert alive() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_works_after_a_fork():
    threads.share(lambda part: None, 2)
    child = os.fork()
    if child == 0:
        ran = []
        threads.share(ran.append, 2)
        os._exit(0 if sorted(ran) == [0, 1] else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="threads cannot be kept off a core here",
)
def test_workers_leave_the_callers_core_alone():
    allowed = os.sched_getaffinity(0)

    def cores():
        seen = {}
        threads.share(lambda part: seen.update({part: os.sched_getaffinity(0)}), 2)
        return seen

    try:
        for core in sorted(allowed):
            # Moves the caller there; with one core it has none to offer to its workers.
            os.sched_setaffinity(0, {core})
            assert cores()[0] == {core}
            os.sched_setaffinity(0, allowed)
            found = cores()
            assert found[0] == allowed
            assert len(allowed - found[1]) == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("count", [0, 1, 999, 1_000_003])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_over_takes_every_place_once(count, most):
    own = torch.get_num_threads()
    torch.set_num_threads(most)
    try:
        parts = []
        threads.over(count, lambda first, end: parts.append((first, end)))
    finally:
        torch.set_num_threads(own)
    assert len(parts) == (most if count > 1_000_000 else 1)
    places = [place for first, end in sorted(parts) for place in range(first, end)]
    assert places == list(range(count))
