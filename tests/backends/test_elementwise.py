"""The compiled activations and slopes themselves; the conformance table has them in networks."""

import math

import numpy as np
import pytest
import torch
from cases import ACTIVATIONS

import graphnn
from graphnn.backends import elementwise

NAMES = [name for name in ACTIVATIONS if name != "identity"]
MORE = ["elu", "celu", "celu(-0.7)", "softplus", "softplus(-0.5, 3)", "softplus(1, 1000)"]
DTYPES = {np.float32: torch.float32, np.float64: torch.float64}


def values_and_slopes(name, x, cotangent=1.0):
    """An activation and its slope times `cotangent` at every number of x."""
    activation = graphnn.activation.resolve(name)
    a, b = (x.dtype.type(number) for number in (*activation.parameters, 0, 0)[:2])
    code, n = elementwise.CODES[activation.function], x.size
    state, gradient = np.concatenate([x, x]), np.full_like(x, cotangent)
    elementwise.activate(code, a, b, state, 0, n, n)
    assert np.array_equal(state[:n], x, equal_nan=True)
    elementwise.multiply_by_slope(code, a, b, state, 0, n, gradient, 0, n)
    return state[n:], gradient


def torchs(name, x, dtype):
    leaf = torch.from_numpy(x).to(dtype).requires_grad_()
    values = graphnn.activation.resolve(name)(leaf)
    values.sum().backward()
    assert leaf.grad is not None
    return values.detach().numpy(), leaf.grad.numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_agrees_with_torch_in_float64(name, dtype):
    # Not a multiple of anything, so that a kink's float32 and float64 are on the same side.
    x = np.linspace(-21.3, 20.9, 30_011).astype(dtype)
    tolerance = 1e-15 if dtype == np.float64 else 4e-7
    for found, wanted in zip(
        values_and_slopes(name, x), torchs(name, x, torch.float64), strict=True
    ):
        error = np.abs(found - wanted).max()
        # Slopes of steep functions grow what their argument was rounded by.
        assert error <= 16 * tolerance * np.abs(wanted).max()
        assert np.median(np.abs(found - wanted)) <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["tanh", "elu(0.5)", "selu", "celu(0.5)", "sin", "gelu", "silu"])
def test_keeps_small_numbers_precise(name, dtype):
    size = np.geomspace(np.finfo(dtype).tiny * 8, 0.5, 3001)
    x = np.concatenate([size, -size]).astype(dtype)
    found, wanted = values_and_slopes(name, x)[0], torchs(name, x, torch.float64)[0]
    assert (np.abs(found / wanted - 1) <= 8 * np.finfo(dtype).eps).all()


def test_tanh_near_1_is_good_enough_for_its_slope():
    x = np.linspace(1, 9, 5001).astype(np.float32)
    wanted = np.tanh(x.astype(np.float64))
    error = np.abs(values_and_slopes("tanh", x)[0] - wanted)
    assert (error <= 0.55 * np.finfo(np.float32).eps).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_softplus_keeps_its_tail(dtype):
    x = np.linspace(-80, -1, 3001).astype(dtype)
    wanted = np.log1p(np.exp(x.astype(np.float64)))
    found, _ = values_and_slopes("softplus", x)
    assert (np.abs(found / wanted - 1) <= 8 * np.finfo(dtype).eps).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_keeps_its_tail(dtype):
    # torch's own loses it: 1 + erf cancels.
    x = np.linspace(-6, -1, 501).astype(dtype)
    wanted = [v * math.erfc(-v / math.sqrt(2)) / 2 for v in x.tolist()]
    found, _ = values_and_slopes("gelu", x)
    # exp(-x^2 / 2) grows the rounding of x^2 by x^2 / 2.
    assert (np.abs(found / np.array(wanted) - 1) <= 40 * np.finfo(dtype).eps).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sin_and_cos_where_pi_is_hard_to_take_off(dtype):
    # The numbers nearest to multiples of pi / 2, where rounded parts of pi would show; then some
    # that only the C library reduces.
    near = (np.arange(1, 600_000, 7) * (math.pi / 2)).astype(dtype)
    x = np.concatenate([near, -near, np.geomspace(9e5, 1e30, 999).astype(dtype)])
    found = values_and_slopes("sin", x)
    eps = 4 * np.finfo(dtype).eps
    exact = x.astype(np.float64)
    for part, wanted in zip(found, (np.sin(exact), np.cos(exact)), strict=True):
        assert (np.abs(part - wanted) <= eps * np.abs(wanted)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_softplus_overflows_where_torchs_does(dtype):
    limit = math.log(np.finfo(dtype).max)
    x = np.array([limit * 0.999, limit * 1.001], dtype).repeat(20)
    found, _ = values_and_slopes("softplus(1, 1e9)", x)
    np.testing.assert_allclose(found, torchs("softplus(1, 1e9)", x, DTYPES[dtype])[0], rtol=1e-6)


SPECIAL = [
    0.0, 1e-45, 1e-40, 3.0, 6.0, 0.25, 0.5, 20.0, 20.5, 88.0, 90.0, 104.0, 200.0, 1e5, 1e7, 1e19,
    1e20, 1e38, math.inf,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*NAMES, "elu", "celu", "softplus"])
def test_special_numbers_are_torchs(name, dtype):
    for number in [sign * size for size in SPECIAL for sign in (1, -1)] + [math.nan]:
        # One number, because torch's vector code takes other slopes at NaN. In float32 its gelu
        # overflows, and is NaN at infinity.
        x = np.array([number], dtype)
        precise = name == "gelu" and number > 1e37
        wide = torch.float64 if precise else DTYPES[dtype]
        for found, wanted in zip(values_and_slopes(name, x), torchs(name, x, wide), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg=str(number))
            if found[0] == 0 and wanted[0] == 0:
                assert np.signbit(found) == np.signbit(wanted), number


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*NAMES, "softplus(1, 1000)"])
def test_bits_do_not_depend_on_the_place(rng, name, dtype):
    x = (4 * torch.randn(150, generator=rng)).numpy().astype(dtype)
    x[::17] *= 1e6
    x[5::29] = [math.nan, math.inf, -math.inf, -0.0, 1e-45]
    cotangent = 0.7
    whole = values_and_slopes(name, x, cotangent)
    single = [values_and_slopes(name, x[i : i + 1], cotangent) for i in range(x.size)]
    for offset in range(35):
        for size in (*range(1, 20), 31, 33, 63, 64, 65, 100):
            part = values_and_slopes(name, x[offset : offset + size], cotangent)
            for found, wanted in zip(part, whole, strict=True):
                assert np.array_equal(found, wanted[offset : offset + size], equal_nan=True)
    for i, parts in enumerate(single):
        for found, wanted in zip(parts, whole, strict=True):
            assert np.array_equal(found, wanted[i : i + 1], equal_nan=True)


@pytest.mark.parametrize("name", [*NAMES, "elu(0)", "leaky_relu(-1)", "clamp(2, 2)"])
def test_a_slope_that_needs_no_preactivation_reads_none(name):
    activation = graphnn.activation.resolve(name)
    x = np.linspace(-7.01, 7.03, 201)
    code, parameters = elementwise.CODES[activation.function], (*activation.parameters, 0.0, 0.0)
    values, slopes = values_and_slopes(name, x)
    gradient = np.ones_like(x)
    elementwise.multiply_by_slope(code, *parameters[:2], values, 0, 0, gradient, 0, x.size)
    needed = elementwise.slope_needs_preactivation(activation.function, activation.parameters)
    assert needed or np.array_equal(gradient, slopes)
