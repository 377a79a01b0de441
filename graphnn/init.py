"""Drawing a network's weights again, in place, by the true fan-in of each neuron.

A sparse level does not have one fan-in: what torch.nn.init takes from a matrix's shape is taken
here from the graph, edge by edge. Biases stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn

from graphnn import parameters
from graphnn.errors import GraphError
from graphnn.network import Network


def kaiming_uniform_(
    net: Network,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws weights from U(-b, b) with b = gain * sqrt(3 / fan).

    Args:
        net: The network.
        a: Negative slope of "leaky_relu"; 0 is relu.
        mode: "fan_in" takes the target's number of incoming edges, which keeps the variance of
            preactivations; "fan_out" the source's number of outgoing edges, that of gradients.
        nonlinearity: As `torch.nn.init.calculate_gain` takes it.
        generator: Draws; default: torch's global one.

    Returns:
        The weights (E,).

    Raises:
        GraphError: An argument is none of these.

    Source: K. He et al., "Delving deep into rectifiers", ICCV 2015; with each neuron's own fan as
        in U. Evci et al., "Gradient flow in sparse neural networks and how lottery tickets win",
        AAAI 2022.

    Example:
        >>> net = graphnn.Network(graphnn.generate.random_sparse([784, 300, 10], density=0.05))
        >>> graphnn.init.kaiming_uniform_(net).shape
        torch.Size([11910])
    """
    bound = _kaiming_std(net, a, mode, nonlinearity) * math.sqrt(3)
    return _set(net, _uniform(net, generator) * bound)


def kaiming_normal_(
    net: Network,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws weights from N(0, std^2) with std = gain / sqrt(fan).

    Args:
        net: The network.
        a: Negative slope of "leaky_relu"; 0 is relu.
        mode: "fan_in" takes the target's number of incoming edges, which keeps the variance of
            preactivations; "fan_out" the source's number of outgoing edges, that of gradients.
        nonlinearity: As `torch.nn.init.calculate_gain` takes it.
        generator: Draws; default: torch's global one.

    Returns:
        The weights (E,).

    Raises:
        GraphError: An argument is none of these.

    Source: K. He et al., "Delving deep into rectifiers", ICCV 2015; with each neuron's own fan as
        in U. Evci et al., "Gradient flow in sparse neural networks and how lottery tickets win",
        AAAI 2022.

    Example:
        >>> net = graphnn.Network(graphnn.generate.random_sparse([784, 300, 10], fan_in=8))
        >>> round(graphnn.init.kaiming_normal_(net).std().item(), 1)  # sqrt(2 / 8)
        0.5
    """
    std = _kaiming_std(net, a, mode, nonlinearity)
    return _set(net, _normal(net, generator) * std)


def xavier_uniform_(
    net: Network, gain: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Draws weights from U(-b, b) with b = gain * sqrt(6 / (fan_in + fan_out)).

    Args:
        net: The network.
        gain: A factor.
        generator: Draws; default: torch's global one.

    Returns:
        The weights (E,); fan_in is the target's number of incoming edges, fan_out the source's of
        outgoing ones.

    Raises:
        GraphError: An argument is none of these.

    Source: X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural
        networks", AISTATS 2010.

    Example:
        >>> net = graphnn.Network(graphnn.generate.layered([3, 3]))
        >>> bool((graphnn.init.xavier_uniform_(net).abs() <= 1).all())
        True
    """
    bound = _xavier_std(net, gain) * math.sqrt(3)
    return _set(net, _uniform(net, generator) * bound)


def xavier_normal_(
    net: Network, gain: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Draws weights from N(0, std^2) with std = gain * sqrt(2 / (fan_in + fan_out)).

    Args:
        net: The network.
        gain: A factor.
        generator: Draws; default: torch's global one.

    Returns:
        The weights (E,); fan_in is the target's number of incoming edges, fan_out the source's of
        outgoing ones.

    Raises:
        GraphError: An argument is none of these.

    Source: X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural
        networks", AISTATS 2010.

    Example:
        >>> net = graphnn.Network(graphnn.generate.layered([100, 100]))
        >>> round(graphnn.init.xavier_normal_(net).std().item(), 1)
        0.1
    """
    return _set(net, _normal(net, generator) * _xavier_std(net, gain))


def sparse_(
    net: Network,
    num_nonzero: int = 15,
    std: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws a few incoming weights of every neuron from N(0, std^2) and sets the others to 0.

    Every choice of `num_nonzero` incoming edges is as likely as any other; a neuron with fewer
    edges has all of them drawn. The total input of a neuron then does not grow with its fan-in.

    Args:
        net: The network.
        num_nonzero: Weights of each neuron that are drawn, at least 1.
        std: Their standard deviation.
        generator: Draws; default: torch's global one.

    Returns:
        The weights (E,).

    Raises:
        GraphError: An argument is none of these.

    Source: J. Martens, "Deep learning via Hessian-free optimization", ICML 2010.

    Example:
        >>> net = graphnn.Network(graphnn.generate.layered([784, 300, 10]))
        >>> int((graphnn.init.sparse_(net) != 0).sum())  # 310 neurons of 15
        4650
    """
    _check(net)
    if isinstance(num_nonzero, bool) or not isinstance(num_nonzero, int) or num_nonzero < 1:
        raise GraphError(f"num_nonzero must be an integer of at least 1 (got {num_nonzero!r}).")
    values = _normal(net, generator) * std
    # Each target's edges in an order of their own, drawn: by key, then stably by target.
    key = torch.empty(values.shape, dtype=torch.float64, device=values.device)
    by_key = key.uniform_(generator=generator).argsort()
    target = net.graph.edge_index[1].to(values.device)
    order = by_key[target[by_key].argsort(stable=True)]
    fan_in = net.graph.fan_in.to(values.device)
    start = fan_in.cumsum(0) - fan_in
    rank = torch.arange(values.numel(), device=values.device) - start[target[order]]
    values[order[rank >= num_nonzero]] = 0
    return _set(net, values)


def weights_(net: Network, values: Mapping[tuple[Hashable, Hashable], SupportsFloat]) -> Tensor:
    """Sets the weights of single edges, given by the labels of their ends.

    Args:
        net: The network.
        values: (source, target) -> weight, by name, or by id where the graph has no names. Other
            edges keep their weights.

    Returns:
        The weights (E,).

    Raises:
        GraphError: A label is unknown, a pair is no edge, or a value no finite number; nothing is
            set then.

    Example:
        >>> net = graphnn.from_edges([("a", "y", 2.0), ("b", "y", 3.0)])
        >>> graphnn.init.weights_(net, {("b", "y"): -1.0}).tolist()
        [2.0, -1.0]
    """
    _check(net)
    if not isinstance(values, Mapping):
        raise GraphError(
            f"values must be a dict of (source, target) -> weight (got {type(values).__name__})."
        )
    for pair, value in values.items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise GraphError(f"the keys of values must be pairs (source, target) (got {pair!r}).")
        if not _is_finite(value):
            raise GraphError(f"weights must be finite numbers, but values[{pair!r}] is {value!r}.")
    pairs = list(values)
    ends = [net.graph.ids([pair[end] for pair in pairs]) for end in (0, 1)]
    edges = net.graph.edge_ids(*ends)
    weight = net.weight.detach().clone()
    numbers = [float(value) for value in values.values()]
    given = torch.tensor(numbers, dtype=torch.float64, device="cpu").to(weight.dtype)
    if not given.isfinite().all():
        place = int(given.isfinite().int().argmin())
        raise GraphError(
            f"weights must be finite in {weight.dtype}, but values[{pairs[place]!r}] is "
            f"{numbers[place]!r}. Scale it, or convert the network with net.to(dtype)."
        )
    weight[edges.to(weight.device)] = given.to(weight.device)
    return _set(net, weight)


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, str | bytes | bool) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


def _check(net: object) -> None:
    if not isinstance(net, Network):
        raise GraphError(f"net must be a graphnn.Network (got {type(net).__name__}).")


def _fan_in(net: Network) -> Tensor:
    """(E,) float64: the number of incoming edges of each edge's target."""
    return net.graph.fan_in[net.graph.edge_index[1]].double()


def _fan_out(net: Network) -> Tensor:
    """(E,) float64: the number of outgoing edges of each edge's source."""
    source = net.graph.edge_index[0]
    return source.bincount(minlength=net.graph.num_neurons)[source].double()


def _kaiming_std(net: Network, a: float, mode: str, nonlinearity: str) -> Tensor:
    _check(net)
    if mode not in ("fan_in", "fan_out"):
        raise GraphError(f"mode must be 'fan_in' or 'fan_out' (got {mode!r}).")
    try:
        gain = nn.init.calculate_gain(nonlinearity, a)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise GraphError(f"nonlinearity must have a gain in torch.nn.init: {error}.") from None
    fan = _fan_in(net) if mode == "fan_in" else _fan_out(net)
    return _like(net, gain * fan.rsqrt())


def _xavier_std(net: Network, gain: float) -> Tensor:
    _check(net)
    return _like(net, gain * (2 / (_fan_in(net) + _fan_out(net))).sqrt())


def _like(net: Network, values: Tensor) -> Tensor:
    return values.to(net.weight.device, net.weight.dtype)


def _uniform(net: Network, generator: torch.Generator | None) -> Tensor:
    parameters.check_generator(generator, net.weight.device)
    return torch.empty_like(net.weight.detach()).uniform_(-1, 1, generator=generator)


def _normal(net: Network, generator: torch.Generator | None) -> Tensor:
    parameters.check_generator(generator, net.weight.device)
    return torch.empty_like(net.weight.detach()).normal_(generator=generator)


@torch.no_grad()
def _set(net: Network, values: Tensor) -> Tensor:
    """Puts (E,) values into the network's weights, through their parametrizations."""
    if nn.utils.parametrize.is_parametrized(net, "weight"):
        net.weight = values
    else:
        net.weight.copy_(values)
    return net.weight
