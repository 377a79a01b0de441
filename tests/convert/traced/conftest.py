"""What every converted module is held to."""

import pytest
import torch
from torch.nn.utils import parametrize

import graphnn

LIMITS = {torch.float32: 1e-5, torch.float64: 1e-11}


def flat(outputs):
    """All outputs of a module or a network, (B, n)."""
    if isinstance(outputs, torch.Tensor):
        return outputs.flatten(1) if outputs.dim() > 1 else outputs[:, None]
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return torch.cat([flat(value) for value in values], 1)


def close(actual, expected, what):
    assert actual.shape == expected.shape, what
    limit = LIMITS[expected.dtype] * expected.abs().max().clamp(min=1e-30)
    assert (actual - expected).abs().max() <= limit, what


def shaken(model, rng):
    """Draws all parameters and statistics, so that none has a special value."""
    with torch.no_grad():
        for value in model.parameters():
            value.uniform_(-0.5, 0.5, generator=rng)
        for name, value in model.named_buffers():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0, generator=rng)
            elif name.endswith("running_mean"):
                value.uniform_(-0.5, 0.5, generator=rng)
    return model


@pytest.fixture
def agree(rng):
    """Converts a module in both dtypes and compares outputs and all gradients."""

    def check(model, *shapes, folds=False):
        """Gives the network in float64; with `folds`, parameters are not compared."""
        for dtype in (torch.float32, torch.float64):
            model = shaken(model, rng).to(dtype)
            xs = [torch.randn(3, *shape, generator=rng, dtype=dtype) for shape in shapes]
            net = graphnn.from_module(model, *xs, backend="reference")
            mode = model.training
            model.eval()
            own = [x.clone().requires_grad_() for x in xs]
            others = [x.clone().requires_grad_() for x in xs]
            # Some modules write into what they are given.
            expected = flat(model(*[x * 1 for x in own]))
            flattened = [x.flatten(1) if x.dim() > 1 else x[:, None] for x in others]
            actual = flat(net(*flattened))
            close(actual, expected, "outputs")
            model.train(mode)
            weight = torch.randn(expected.shape, generator=rng, dtype=dtype)
            model.zero_grad()
            (expected * weight).sum().backward()
            (actual * weight).sum().backward()
            for x, other in zip(own, others, strict=True):
                close(other.grad, x.grad, "input gradients")
            if not folds:
                compare_parameters(model, net)
        return net

    return check


def trained_of(net, name):
    """The parameter behind a network's weight or bias."""
    is_plain = not parametrize.is_parametrized(net, name)
    return getattr(net, name) if is_plain else net.parametrizations[name].original


@pytest.fixture
def trained():
    return trained_of


def compare_parameters(model, net):
    """By kind, in the order in which the module names them."""
    for kind in ("weight", "bias"):
        parameter = trained_of(net, kind)
        own = [p for name, p in model.named_parameters() if name.endswith(kind)]
        if not own:
            continue
        assert parameter.numel() == sum(p.numel() for p in own), kind
        start = 0
        for value in own:
            place = slice(start, start + value.numel())
            close(parameter.grad[place], value.grad.reshape(-1), f"gradient of a {kind}")
            assert torch.equal(parameter.detach()[place], value.detach().reshape(-1))
            start += value.numel()
