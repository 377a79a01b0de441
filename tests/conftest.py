"""Shared fixtures and settings of the test suite."""

import numpy as np
import pytest
import torch

import graphnn


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(graphnn=graphnn, torch=torch, np=np)


@pytest.fixture
def rng():
    """A seeded generator, so that no test reads or sets the global random state."""
    return torch.Generator().manual_seed(0)
