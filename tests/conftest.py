"""Fixtures that all test files share."""

import pytest
import torch


@pytest.fixture
def rng():
    """A seeded generator, so that no test reads or sets the global random state."""
    return torch.Generator().manual_seed(0)
