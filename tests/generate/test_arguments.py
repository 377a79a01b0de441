"""What generators refuse."""

from typing import Any, cast

import pytest

from graphnn import GraphError, generate


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (5, r"sizes must be a sequence .* \(got 5\)"),
        ("45", r"sizes must be a sequence .* \(got '45'\)"),
        ([], r"at least two levels, inputs and outputs \(got \[\]\)"),
        ([4], r"at least two levels"),
        ([4, 0, 2], r"sizes\[1\] must be an integer of at least 1 \(got 0\)"),
        ([4, -1], r"sizes\[1\] must be an integer"),
        ([4, 2.0], r"sizes\[1\] must be an integer of at least 1 \(got 2.0\)"),
        ([True, 2], r"sizes\[0\] must be an integer of at least 1 \(got True\)"),
    ],
)
def test_sizes(sizes, message):
    with pytest.raises(GraphError, match=message):
        generate.layered(sizes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generate.random_sparse([4, 4]), "exactly one of density and fan_in"),
        (lambda: generate.random_sparse([4, 4], 0.5, 2), r"got density=0.5 and fan_in=2"),
        (lambda: generate.random_sparse([4, 4], 1.5), r"density must be a number in 0 ... 1"),
        (lambda: generate.random_sparse([4, 4], float("nan")), r"density .* \(got nan\)"),
        (lambda: generate.random_sparse([4, 4], True), r"density .* \(got True\)"),
        (lambda: generate.random_sparse([4, 4], cast(Any, "0.5")), r"density .* \(got '0.5'\)"),
        (lambda: generate.random_sparse([4, 4], 0.01), "0.01 of 4 x 4 edges is none"),
        (lambda: generate.random_sparse([4, 4], fan_in=0), r"fan_in must be .* \(got 0\)"),
        (lambda: generate.block_diagonal([4, 2, 4], 3), r"\(got 3, but sizes\[1\] is 2\)"),
        (lambda: generate.local([4, 4], 0), "fan_in must be an integer of at least 1"),
        (lambda: generate.small_world([4, 4], 2, -0.1), r"rewire must be .* \(got -0.1\)"),
        (lambda: generate.random_dag(2, 3, 1, 2, 4), r"n_hidden=3 and depth=4"),
        (lambda: generate.random_dag(2, 3, 1, 2, 0), "depth must be an integer of at least 1"),
        (lambda: generate.random_dag(2, 3, 1, 2, 2, span=0), "span must be an integer"),
        (lambda: generate.random_dag(0, 3, 1, 2, 2), "n_in must be an integer of at least 1"),
        (lambda: generate.erdos_renyi(2, -1, 1, 0.5), "n_hidden must be an integer of at least 0"),
        (lambda: generate.erdos_renyi(2, 1, 0, 0.5), "n_out must be an integer of at least 1"),
        (lambda: generate.erdos_renyi(2, 1, 1, 2), r"probability must be .* \(got 2\)"),
        (lambda: generate.scale_free(2, 1, 1, 0), "fan_in must be an integer of at least 1"),
        (lambda: generate.radixnet(1000, 2), r"16 times a power of two .* \(got 1000\)"),
        (lambda: generate.radixnet(16, 2), r"at least 32, such as 1024 \(got 16\)"),
        (lambda: generate.radixnet(48, 2), r"\(got 48\)"),
        (lambda: generate.radixnet(1024, 0), "num_layers must be an integer of at least 1"),
        (
            lambda: generate.radixnet_parameters(generate.radixnet(64, 1)),
            r"graph must have 1024, 4096, 16384, 65536 inputs.*\(got 64\)",
        ),
        (lambda: generate.layered([2, 2], activation="rellu"), "Did you mean 'relu'"),
        (lambda: generate.layered([2, 2], bias=cast(Any, "yes")), "bias must be one bool"),
    ],
)
def test_other_arguments(call, message):
    with pytest.raises(GraphError, match=message):
        call()
