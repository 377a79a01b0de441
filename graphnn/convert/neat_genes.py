"""A neat-python network as genes, out of a genome with its configuration or of a JSON export."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphnn.errors import ConversionError, FormatError

# The version of the export that this file reads, up to its first point.
_MAJOR = "1"


@dataclass(frozen=True)
class Function:
    """An activation or aggregation by neat-python's name for it.

    Args:
        name: Such as "sigmoid" or "sum".
        custom: Whether it is the user's own, whatever its name.
    """

    name: str
    custom: bool


@dataclass(frozen=True)
class Node:
    """A computed node: ``activation(bias + response * aggregation(weight * value))``."""

    activation: Function
    aggregation: Function
    bias: float
    response: float


@dataclass(frozen=True)
class Link:
    """An enabled connection."""

    source: int
    target: int
    weight: float


@dataclass(frozen=True)
class Genes:
    """All that decides what a feed-forward network computes.

    Args:
        origin: What messages call it, such as "genome 12" or a path.
        inputs: Keys.
        outputs: Keys.
        nodes: Key -> node, of all nodes but the inputs.
        links: The enabled connections.
    """

    origin: str
    inputs: list[int]
    outputs: list[int]
    nodes: dict[int, Node]
    links: list[Link]

    def required(self) -> Genes:
        """The same without the nodes that no output depends on.

        Raises:
            ConversionError: A node that is needed has no gene.
        """
        sources = defaultdict(list)
        for link in self.links:
            sources[link.target].append(link.source)
        inputs = set(self.inputs)
        needed, left = set(self.outputs), list(self.outputs)
        while left:
            key = left.pop()
            if key not in self.nodes:
                raise ConversionError(
                    f"{self.origin}: every node but the inputs must have a gene, but node {key} "
                    "has none."
                )
            found = set(sources[key]) - needed - inputs
            needed |= found
            left += found
        return Genes(
            self.origin,
            self.inputs,
            self.outputs,
            {key: node for key, node in self.nodes.items() if key in needed},
            [link for link in self.links if link.target in needed],
        )


def read_genome(genome: Any, config: Any) -> Genes:
    """The genes of a genome.

    Args:
        genome: A `neat.DefaultGenome`.
        config: The `neat.Config` that it evolved under.

    Raises:
        ConversionError: Either is something else, or a number is not finite.
    """
    options: Any = getattr(config, "genome_config", None)
    if not hasattr(genome, "connections") or not hasattr(genome, "nodes"):
        raise ConversionError(
            "genome must be a neat-python genome, or the path of a network that neat-python "
            f"exported as JSON (got {type(genome).__name__})."
        )
    if not hasattr(options, "input_keys"):
        raise ConversionError(
            "config must be the neat.Config that the genome evolved under "
            f"(got {type(config).__name__})."
        )
    origin = f"genome {genome.key}"
    nodes = {
        key: Node(
            _function(gene.activation, options.activation_defs, "neat.activations"),
            _function(gene.aggregation, options.aggregation_function_defs, "neat.aggregations"),
            _finite(gene.bias, f"{origin}: the bias of node {key}"),
            _finite(gene.response, f"{origin}: the response of node {key}"),
        )
        for key, gene in genome.nodes.items()
    }
    links = [
        Link(source, target, _finite(gene.weight, f"{origin}: the weight of {source} -> {target}"))
        for (source, target), gene in genome.connections.items()
        if gene.enabled
    ]
    return Genes(origin, list(options.input_keys), list(options.output_keys), nodes, links)


def _function(name: str, known: Any, module: str) -> Function:
    # A configuration may put the user's own function under a name of neat-python's.
    function = known.functions.get(name)
    return Function(name, getattr(function, "__module__", None) != module)


def _finite(value: Any, what: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ConversionError(f"{what} must be a finite number (got {value!r}).")
    return float(value)


def read_json(path: str | os.PathLike[str]) -> Genes:
    """The genes of a network that `neat.export.export_network_json` wrote.

    Raises:
        FormatError: The file is no such export.
        ConversionError: It holds a network that is not feed-forward.
        OSError: The file cannot be read.
    """
    try:
        fields = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: must be JSON, as neat-python exports it ({error}).") from None
    export = _Export(os.fspath(path), fields)
    kind = export.field(fields, "network_type", str, "the export")
    if kind != "feedforward":
        raise ConversionError(
            f"{path}: network_type must be 'feedforward', because a neuron graph keeps no state "
            f"between calls (got {kind!r})."
        )
    version = export.field(fields, "format_version", str, "the export")
    if version.split(".")[0] != _MAJOR:
        raise FormatError(f"{path}: format_version must be {_MAJOR}.x (got {version!r}).")
    topology = export.field(fields, "topology", dict, "the export")
    return Genes(
        export.path,
        export.keys(topology, "input_keys"),
        export.keys(topology, "output_keys"),
        export.nodes(),
        export.links(),
    )


@dataclass(frozen=True)
class _Export:
    """Reads one parsed file; every refusal names the file and the place in it."""

    path: str
    fields: Any

    def field(self, owner: Any, name: str, kind: type, where: str) -> Any:
        # True is an int to isinstance, and no key.
        if not isinstance(owner, dict) or type(owner.get(name)) is not kind:
            got = type(owner.get(name)).__name__ if isinstance(owner, dict) else repr(owner)
            raise FormatError(
                f"{self.path}: {where} must have a {name!r} of type {kind.__name__} (got {got})."
            )
        return owner[name]

    def keys(self, topology: dict[str, Any], name: str) -> list[int]:
        keys = self.field(topology, name, list, "topology")
        for key in keys:
            if type(key) is not int:
                raise FormatError(f"{self.path}: {name} must hold integers (got {key!r}).")
        return keys

    def number(self, owner: Any, name: str, where: str) -> float:
        value = owner.get(name) if isinstance(owner, dict) else None
        try:
            return _finite(value, f"{where}, {name!r}")
        except ConversionError as error:
            raise FormatError(f"{self.path}: {error}") from None

    def function(self, owner: Any, name: str, where: str) -> Function:
        told = self.field(owner, name, dict, where)
        inside = f"{where}, {name!r}"
        return Function(
            self.field(told, "name", str, inside), self.field(told, "custom", bool, inside)
        )

    def nodes(self) -> dict[int, Node]:
        nodes = {}
        for place, node in enumerate(self.field(self.fields, "nodes", list, "the export")):
            where = f"nodes[{place}]"
            key = self.field(node, "id", int, where)
            if self.field(node, "type", str, where) == "input":
                continue
            if key in nodes:
                raise FormatError(f"{self.path}: {where} must have its own id (got {key} again).")
            nodes[key] = Node(
                self.function(node, "activation", where),
                self.function(node, "aggregation", where),
                self.number(node, "bias", where),
                self.number(node, "response", where),
            )
        return nodes

    def links(self) -> list[Link]:
        links = []
        for place, link in enumerate(self.field(self.fields, "connections", list, "the export")):
            where = f"connections[{place}]"
            source, target = (self.field(link, end, int, where) for end in ("from", "to"))
            if self.field(link, "enabled", bool, where):
                links.append(Link(source, target, self.number(link, "weight", where)))
        return links
