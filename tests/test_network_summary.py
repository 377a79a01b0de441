"""Summaries of networks and traces."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import graphnn


@pytest.fixture
def net(rng):
    graph = graphnn.NeuronGraph(
        [[0, 1, 2, 0], [2, 2, 3, 3]], activation=["identity", "identity", "relu", "identity"]
    )
    return graphnn.Network(
        graph, [1.0, 1.0, 2.0, -1.0], torch.zeros(2), "reference", output_transform="softmax"
    )


def test_a_network_says_its_parameters_and_memory(net):
    text = str(net)
    assert text.splitlines()[0] == "Network"
    for line in (
        r"neurons +4: 2 inputs, 1 hidden, 1 outputs$", r"edges +4, of which 1 skip a level$",
        r"levels +3$", r"density +0\.\d+$", "activations .*relu 1",
        r"parameters +6: 4 weights, 2 biases, float32 on cpu$",
        r"memory +24 bytes of parameters, 64 bytes of edges$",
        r"backend +reference$", r"transform +softmax over each output group$",
    ):  # fmt: skip
        assert re.search(f"^  {line}", text, re.M), line
    assert len(text.splitlines()) < 25
    assert "4 weights, 2 biases" in net._repr_html_()
    assert "float64" in str(net.double())


def test_a_network_inside_a_module_stays_short(net):
    assert "Network(4 neurons, 4 edges" in str(nn.Sequential(net))
    assert len(str(nn.Sequential(net)).splitlines()) == 3


def test_parametrized_and_meta_networks(net):
    frozen = graphnn.parametrize.Frozen(torch.tensor([True, False, False, False]), 1.0)
    parametrize.register_parametrization(net, "weight", frozen)
    assert "parameters   5 stored for 4 weights and 2 biases, float32 on cpu" in str(net)
    assert "on meta" in str(graphnn.Network(net.graph, device="meta"))


def test_a_trace_says_the_range_of_its_values(net):
    trace = net.trace(torch.tensor([[1.0, -3.0], [2.0, -5.0]]))
    rows = [line.split() for line in str(trace).splitlines()[-3:]]
    assert rows == [
        ["0", "2", "-5", "2", "0"],
        ["1", "1", "0", "0", "1"],
        ["2", "1", "-2", "-1", "0"],
    ]
    assert re.search(r"^  samples +2$", str(trace), re.M)
    assert re.search(r"^  gradients +kept$", str(trace), re.M)
    assert "<th>always 0</th>" in trace._repr_html_()
    assert repr(trace).startswith("Trace((2, 4) float32 values of NeuronGraph(4 neurons")
    assert repr(trace).count("\n") == 0


def test_odd_traces(net):
    assert "samples    1, shape ()" in str(net.trace(torch.ones(2)))
    assert "samples    6, shape (2, 3)" in str(net.trace(torch.ones(2, 3, 2)))
    assert re.search(r"samples +0$", str(net.trace(torch.ones(0, 2))), re.M)
    with torch.no_grad():
        trace = net.trace(torch.tensor([[float("nan"), 1.0], [1.0, 1.0]]))
    assert "nan" in str(trace)
    assert re.search(r"^  gradients +not kept$", str(trace), re.M)
