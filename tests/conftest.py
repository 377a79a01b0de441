"""Fixtures and options that all test files share."""

import os

import pytest
import torch

# Processes that test side by side share the cores: torch's threads, which wait by spinning, would
# otherwise take them from one another.
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(max(1, torch.get_num_threads() // _PROCESSES))


def pytest_addoption(parser):
    parser.addoption(
        "--require-gpu", action="store_true", help="fail, not skip, what needs a GPU and finds none"
    )


@pytest.fixture(scope="session")
def without_gpu(request):
    """Called with a reason, skips a test that needs a GPU; fails it under --require-gpu."""
    return pytest.fail if request.config.getoption("--require-gpu") else pytest.skip


@pytest.fixture
def rng():
    """A seeded generator, so that no test reads or sets the global random state."""
    return torch.Generator().manual_seed(0)
