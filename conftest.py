"""The names that every doctest may use."""

import numpy as np
import pytest
import torch

import graphnn


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(graphnn=graphnn, torch=torch, np=np)
