"""Networks from masks."""

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

from graphnn import GraphError, from_masks, from_sequential

FIRST = [[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0]]
SECOND = [[0, 1, 1], [1, 0, 0]]


def test_edges_are_row_major_over_each_mask():
    net = from_masks([FIRST, SECOND])
    assert net.graph.edge_index.tolist() == [
        [0, 2, 1, 0, 1, 5, 6, 4],
        [4, 4, 5, 6, 6, 7, 7, 8],
    ]
    assert net.graph.activation == ("identity",) * 4 + ("relu",) * 3 + ("identity",) * 2
    assert net.graph.input_ids.tolist() == [0, 1, 2, 3]
    assert net.graph.output_ids.tolist() == [7, 8]
    assert net.graph.bias_neurons.tolist() == [4, 5, 6, 7, 8]


def test_it_computes_masked_linear_layers(rng):
    masks = [torch.rand(7, 5, generator=rng) < 0.5, torch.rand(3, 7, generator=rng) < 0.5]
    net = from_masks(masks, "tanh", "sigmoid", generator=rng, dtype=torch.float64)
    x = torch.randn(6, 5, generator=rng, dtype=torch.float64)
    value, weights, biases = x, net.weight, net.bias
    for mask, activation in zip(masks, (torch.tanh, torch.sigmoid), strict=True):
        matrix = torch.zeros(mask.shape, dtype=torch.float64)
        matrix[mask] = weights[: int(mask.sum())]
        value = activation(nn.functional.linear(value, matrix, biases[: len(mask)]))
        weights, biases = weights[int(mask.sum()) :], biases[len(mask) :]
    torch.testing.assert_close(net(x), value)


def test_full_masks_are_the_linear_layers_they_look_like():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    masks = [torch.ones_like(layer.weight) for layer in model if isinstance(layer, nn.Linear)]
    assert from_masks(masks).graph == from_sequential(model).graph


FORMS = {
    "bool tensor": lambda m: torch.tensor(m).bool(),
    "float tensor": lambda m: torch.tensor(m).float(),
    "tensor that needs gradients": lambda m: torch.tensor(m).float().requires_grad_(),
    "transposed view": lambda m: torch.tensor(m).t().contiguous().t(),
    "sparse COO tensor": lambda m: torch.tensor(m).to_sparse_coo(),
    "sparse CSR tensor": lambda m: torch.tensor(m).to_sparse_csr(),
    "numpy": lambda m: np.array(m, bool),
    "numpy bytes": lambda m: np.array(m, np.uint8),
    "COO array, shuffled": lambda m: _shuffled(np.array(m)),
    "CSC matrix": lambda m: scipy.sparse.csc_matrix(np.array(m, float)),
    "CSR with stored zeros": lambda m: _with_zeros(np.array(m)),
    "DIA array": lambda m: scipy.sparse.dia_array(np.array(m)),
}


def _shuffled(m):
    row, column = np.nonzero(m)
    order = np.random.default_rng(0).permutation(row.size)
    return scipy.sparse.coo_array((np.ones(row.size, bool), (row[order], column[order])), m.shape)


def _with_zeros(m):
    row, column = np.indices(m.shape).reshape(2, -1)
    return scipy.sparse.csr_array((m.reshape(-1), (row, column)), m.shape)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_mask_is_the_same(form):
    net = from_masks(FORMS[form](mask) for mask in (FIRST, SECOND))
    assert net.graph == from_masks([FIRST, SECOND]).graph


def test_a_row_without_ones_is_a_constant():
    net = from_masks([[[1, 1], [0, 0]], [[1, 1]]])
    assert net.graph.fan_in.tolist() == [0, 0, 2, 0, 2]
    assert net.graph.level.tolist() == [0, 0, 1, 1, 2]


def test_network_arguments_reach_the_network(rng):
    net = from_masks([FIRST], bias=False, backend="reference", dtype=torch.float64, generator=rng)
    assert net.backend == "reference"
    assert net.weight.dtype == torch.float64
    assert net.bias.numel() == 0
    again = torch.Generator().manual_seed(0)
    assert torch.equal(from_masks([FIRST], bias=False, generator=again,
                                  dtype=torch.float64).weight, net.weight)  # fmt: skip


def ones(*shape):
    return np.ones(shape, bool)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([], "masks must hold at least one mask"),
        (5, r"sequence of \(out, in\) masks, one a level \(got int\)"),
        ({"a": ones(2, 2)}, r"\(got dict\)"),
        (ones(2, 3), r"masks\[0\] must have shape \(out, in\).*shape \(3,\)\). Pass a list"),
        ([ones(3, 4), ones(2, 3, 1)], r"masks\[1\] must .*\(got shape \(2, 3, 1\)\)"),
        ([ones(3, 4), ones(0, 3)], r"masks\[1\] must .*\(got shape \(0, 3\)\)"),
        ([[[1, 0], [1]]], r"masks\[0\] must be a rectangular array"),
        ([None], r"masks\[0\] must have shape \(out, in\).*\(got shape \(\)\)"),
        ([[["a", "b"]]], r"masks\[0\] must hold bools, or numbers that are 0 or 1 \(got <U1\)"),
        ([FIRST, [[0, 0.5, 1]]], r"masks\[1\] .* but \[0, 1\] is 0.5. Pass mask != 0"),
        ([[[1, float("nan")]]], r"masks\[0\] .* but \[0, 1\] is nan"),
        ([[[1, -1]]], r"\[0, 1\] is -1"),
        ([scipy.sparse.coo_array(([1, 1], ([0, 0], [1, 1])), (1, 2))], r"\[0, 1\] is 2"),
    ],
)
def test_what_is_no_mask_is_refused(masks, message):
    with pytest.raises(GraphError, match=message):
        from_masks(masks)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(784, 300), (300, 10)], r"masks\[0\] has shape \(784, 300\) and masks\[1\] has shape "
         r"\(300, 10\). All look transposed, \(in, out\): pass \[mask.T for mask in masks\]"),
        ([(300, 784), (300, 10)], r"\(300, 10\). masks\[1\] looks transposed"),
        ([(784, 300), (10, 300)], r"\(10, 300\). masks\[0\] looks transposed"),
        ([(9, 4), (5, 9), (5, 3), (3, 3)], r"masks\[1\] has shape \(5, 9\) and masks\[2\] has "
         r"shape \(5, 3\). masks\[2\] looks transposed, \(in, out\): pass its .T."),
        ([(3, 4), (5, 6)], r"masks\[1\] has shape \(5, 6\)\.$"),
    ],
)  # fmt: skip
def test_masks_that_do_not_follow_one_another_are_refused(shapes, message):
    with pytest.raises(GraphError, match=message):
        from_masks([ones(*shape) for shape in shapes])
