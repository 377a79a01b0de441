"""Networks from neat-python's genomes."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from graphnn.activation import resolve
from graphnn.convert.neat_genes import Genes, Link, Node, read_genome, read_json
from graphnn.errors import ConversionError, GraphError
from graphnn.graph import NeuronGraph
from graphnn.network import Network
from graphnn.parametrize import Frozen

if TYPE_CHECKING:
    import neat


@dataclass(frozen=True)
class _Rule:
    """How neurons compute an activation of neat-python: ``then(first(scale * z))``.

    Args:
        first: An activation.
        scale: Folded into the bias and the incoming weights.
        then: The activation of a second neuron, where one neuron is not enough.
        weight: Of the edge between the two.
        bias: Of the second neuron, or None.
    """

    first: str
    scale: float = 1.0
    then: str | None = None
    weight: float = 1.0
    bias: float | None = None


# neat-python cuts the arguments of sigmoid, tanh and gauss where their values are within 1e-25 of
# the limit; sin and softplus it cuts where that is another function.
_RULES = {
    "sigmoid": _Rule("sigmoid", 5.0),
    "tanh": _Rule("tanh", 2.5),
    "sin": _Rule("clamp(-60, 60)", 5.0, then="sin"),
    "gauss": _Rule("gauss", math.sqrt(5.0)),
    "relu": _Rule("relu"),
    "elu": _Rule("elu"),
    "lelu": _Rule("leaky_relu(0.005)"),
    "selu": _Rule("selu"),
    # From 40 on, log(1 + exp(x)) and x are one float64.
    "softplus": _Rule("clamp(-12, 12)", then="softplus(5, 40)"),
    "identity": _Rule("identity"),
    "clamped": _Rule("clamp(-1, 1)"),
    "abs": _Rule("abs"),
    "hat": _Rule("abs", then="relu", weight=-1.0, bias=1.0),
    "square": _Rule("square"),
}


def from_neat(
    genome: neat.DefaultGenome | str | os.PathLike[str],
    config: neat.Config | None = None,
    node_names: Mapping[int, Hashable] | None = None,
    activations: Mapping[str, str] | None = None,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Network:
    """Converts a network that neat-python evolved; it computes what FeedForwardNetwork does.

    Neurons are the inputs, the hidden nodes by key and the outputs, called by their keys; edges
    are the enabled connections in the genome's order. Nodes that no output depends on are left
    out, as neat-python does.

    A node is ``activation(bias + response * sum(weight * value))``, and some of neat-python's
    activations scale their argument, sigmoid(5z) for one. Both factors are folded:

        weight = scale * response * (weight of the connection),  bias = scale * (bias of the node)

    with scale 5 for sigmoid and sin, 2.5 for tanh, the root of 5 for gauss and 1 for the others;
    "mean" also divides by the number of connections. So trained weights go back into the genome
    divided by ``scale * response``.

    sin and softplus, whose argument neat-python cuts, and hat take two neurons each, the first
    called "KEY:clamp" or "KEY:abs". What joins the two is constant: a `Frozen` holds it. These
    edges come last.

    Args:
        genome: A neat-python genome, or the path of a feed-forward network that
            ``neat.export.export_network_json`` wrote.
        config: The configuration that the genome evolved under; None for a file.
        node_names: Key -> name of a node, as neat-python's draw_net takes it.
        activations: neat-python's name -> graphnn's, for activations that are not in the table of
            neat-python's or that are the user's own; see `register_activation`.
        backend: Of the network.
        dtype: Of the parameters; default: torch's default. neat-python computes in float64.
        device: Of the parameters; default: torch's default device.

    Returns:
        The network, with inputs "input" and outputs "output".

    Raises:
        ConversionError: A node has another aggregation than "sum" or "mean", or the activation
            "inv", "log", "exp", "cube" or one of the user's own that `activations` lacks; the
            network is recurrent; or a number is not finite.
        FormatError: The file is no export of neat-python.
        GraphError: A name of `node_names` or `activations` cannot be.
        OSError: The file cannot be read.

    Source:
        K. Stanley, R. Miikkulainen: Evolving Neural Networks through Augmenting Topologies, 2002;
        https://neat-python.readthedocs.io

    Example:
        >>> import neat
        >>> from neat.activations import tanh_activation
        >>> from neat.aggregations import sum_aggregation
        >>> from neat.export import export_network_json
        >>> node = (0, tanh_activation, sum_aggregation, 1.0, 2.0, [(-1, 0.5), (-2, 2.0)])
        >>> evolved = neat.nn.FeedForwardNetwork([-1, -2], [0], [node])
        >>> path = getfixture("tmp_path") / "evolved.json"
        >>> _ = export_network_json(evolved, path)
        >>> net = graphnn.from_neat(path, node_names={0: "y"})
        >>> net.graph.names, net.weight.tolist(), net.bias.tolist()
        ((-1, -2, 'y'), [2.5, 10.0], [2.5])
    """
    if isinstance(genome, str | os.PathLike):
        if config is not None:
            raise ConversionError("config must be None for a file, which holds all that is needed.")
        genes = read_json(genome)
    else:
        genes = read_genome(genome, config)
    labels = _labels(genes, node_names or {})
    genes = genes.required()
    body = _Body()
    for key in genes.inputs:
        body.add_input(key, labels[key])
    fan_in = Counter(link.target for link in genes.links)
    for key in [*sorted(genes.nodes.keys() - set(genes.outputs)), *genes.outputs]:
        node = genes.nodes[key]
        where = f"{genes.origin}: node {key}"
        rule = _rule(node, activations or {}, where)
        factor = rule.scale * node.response * _share(node, fan_in[key], where)
        body.add_node(key, labels[key], rule, node.bias, factor)
    for link in genes.links:
        body.add_link(link)
    return body.network(genes, backend, dtype, device)


def _labels(genes: Genes, node_names: Mapping[int, Hashable]) -> dict[int, Hashable]:
    keys = {*genes.inputs, *genes.nodes}
    for key in node_names:
        if key not in keys:
            raise GraphError(
                f"node_names must map keys of nodes to names, but {genes.origin} has no node "
                f"{key!r}. Its inputs are {genes.inputs}, its outputs {genes.outputs}."
            )
    return {key: node_names.get(key, key) for key in keys}


def _rule(node: Node, activations: Mapping[str, str], where: str) -> _Rule:
    name = node.activation.name
    if name in activations:
        return _Rule(resolve(activations[name]).name)
    if node.activation.custom or name not in _RULES:
        whose = "a function of your own called " if node.activation.custom else ""
        raise ConversionError(
            f"{where} must have an activation of {', '.join(_RULES)} (got {whose}{name!r}). Add it "
            "with graphnn.register_activation and say so here, as in "
            f"activations={{{name!r}: 'my_{name}'}}."
        )
    return _RULES[name]


def _share(node: Node, fan_in: int, where: str) -> float:
    """What the aggregation multiplies a sum over `fan_in` connections by."""
    name = node.aggregation.name
    if node.aggregation.custom or name not in ("sum", "mean"):
        whose = "a function of your own called " if node.aggregation.custom else ""
        raise ConversionError(
            f"{where} must have the aggregation 'sum' or 'mean', because a neuron adds up what it "
            f"receives (got {whose}{name!r}). Evolve with aggregation_options = sum."
        )
    return 1.0 / fan_in if name == "mean" and fan_in else 1.0


@dataclass(frozen=True)
class _Neuron:
    name: Hashable
    activation: str
    # None without a bias.
    bias: float | None
    # Whether the bias belongs to the activation, not to the genome.
    constant: bool = False


@dataclass(frozen=True)
class _Place:
    """Where a node's connections end and start, and what multiplies the weights that end there."""

    entry: int
    value: int
    factor: float


_Edge = tuple[int, int, float]


@dataclass(frozen=True)
class _Body:
    """Neurons and edges while they are collected; a joint is an edge within one node."""

    neurons: list[_Neuron] = field(default_factory=list)
    places: dict[int, _Place] = field(default_factory=dict)
    edges: list[_Edge] = field(default_factory=list)
    joints: list[_Edge] = field(default_factory=list)

    def add_input(self, key: int, label: Hashable) -> None:
        place = self._add(_Neuron(label, "identity", None))
        self.places[key] = _Place(place, place, 1.0)

    def add_node(self, key: int, label: Hashable, rule: _Rule, bias: float, factor: float) -> None:
        name = f"{label}:{resolve(rule.first).function}" if rule.then else label
        entry = value = self._add(_Neuron(name, rule.first, rule.scale * bias))
        if rule.then:
            value = self._add(_Neuron(label, rule.then, rule.bias, constant=True))
            self.joints.append((entry, value, rule.weight))
        self.places[key] = _Place(entry, value, factor)

    def _add(self, neuron: _Neuron) -> int:
        self.neurons.append(neuron)
        return len(self.neurons) - 1

    def add_link(self, link: Link) -> None:
        target = self.places[link.target]
        source = self.places[link.source].value
        self.edges.append((source, target.entry, target.factor * link.weight))

    def network(
        self,
        genes: Genes,
        backend: str,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> Network:
        edges = [*self.edges, *self.joints]
        biased = [neuron for neuron in self.neurons if neuron.bias is not None]
        try:
            graph = NeuronGraph(
                [[source for source, _, _ in edges], [target for _, target, _ in edges]],
                num_neurons=len(self.neurons),
                inputs=[self.places[key].value for key in genes.inputs],
                outputs=[self.places[key].value for key in genes.outputs],
                activation=[neuron.activation for neuron in self.neurons],
                bias=[neuron.bias is not None for neuron in self.neurons],
                names=[neuron.name for neuron in self.neurons],
            )
        except GraphError as error:
            raise ConversionError(
                f"{genes.origin} does not make a feed-forward network: {error}"
            ) from None
        net = Network(
            graph,
            torch.tensor([weight for *_, weight in edges], dtype=torch.float64, device="cpu"),
            torch.tensor([neuron.bias for neuron in biased], dtype=torch.float64, device="cpu"),
            backend=backend,
            dtype=torch.get_default_dtype() if dtype is None else dtype,
            device=torch.get_default_device() if device is None else device,
        )
        _freeze(net, "weight", [False] * len(self.edges) + [True] * len(self.joints))
        _freeze(net, "bias", [neuron.constant for neuron in biased])
        return net


def _freeze(net: Network, name: str, held: list[bool]) -> None:
    if any(held):
        values = getattr(net, name).detach()
        frozen = Frozen(torch.tensor(held, device=values.device), values)
        nn.utils.parametrize.register_parametrization(net, name, frozen)
