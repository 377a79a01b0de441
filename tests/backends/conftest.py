"""Where the GPU backend's tests run, and what is not collected."""

import os

import pytest
import torch
from gpu_networks import ON_GPU

from graphnn import autocast
from graphnn.backends import fused_cpu_cut, fused_gpu_schedule


def pytest_ignore_collect(collection_path, config):
    """Doctests are looked for in all files, but importing these changes the whole process."""
    if collection_path.name in ("elsewhere.py", "elsewhere_checks.py"):
        is_asked_for = any(argument.endswith(collection_path.name) for argument in config.args)
        return None if is_asked_for else True
    return None


@pytest.fixture
def device(without_gpu):
    """Where the backend runs: a GPU, or the CPU that interprets its kernels."""
    if not ON_GPU and os.environ.get("TRITON_INTERPRET") != "1":
        without_gpu("there is no GPU, and Triton's interpreter is off (TRITON_INTERPRET=1)")
    return torch.device("cuda" if ON_GPU else "cpu")


@pytest.fixture
def on_gpu(without_gpu):
    """A real GPU."""
    if not ON_GPU:
        without_gpu("there is no GPU")
    return torch.device("cuda")


@pytest.fixture
def threads(monkeypatch):
    """Sets the number of threads, which share small networks too."""
    before = torch.get_num_threads()
    monkeypatch.setattr(fused_cpu_cut, "_PRODUCTS_PER_THREAD", 100_000)
    fused_cpu_cut.cut_batch.cache_clear()
    yield torch.set_num_threads
    torch.set_num_threads(before)
    fused_cpu_cut.cut_batch.cache_clear()


@pytest.fixture
def half_autocast(monkeypatch):
    """Called, has networks run as under a GPU's autocast to bfloat16, wherever they are."""

    def start():
        monkeypatch.setattr(autocast, "is_active", lambda _device: True)
        monkeypatch.setattr(autocast, "dtype_of", lambda _weight: torch.bfloat16)

    return start


@pytest.fixture
def small_products(monkeypatch):
    """Runs every complete block as a matrix product, as only large ones are."""
    monkeypatch.setattr(fused_gpu_schedule, "LARGE_BLOCK", 1)
