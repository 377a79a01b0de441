"""From any network to a module of nn.Linear levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphnn.convert.activation_layer import write_activation_layer
from graphnn.convert.linear_stack import Cells, NetworkParameters, level_activations
from graphnn.errors import ConversionError, GraphError
from graphnn.network import Network, output_tuple
from graphnn.plan import build_plan


def to_module(net: Network, masked: bool = False) -> LinearLevels:
    """Converts any network into nn.Linear levels, each over the sources that it reads.

    Args:
        net: Any network: with skip connections, constants, several groups.
        masked: Whether missing edges and biases, which are zeros, and entries that a `Frozen`
            holds in `net` stay as they are in training, by `torch.nn.utils.parametrize`.

    Returns:
        A module that is called as the network is and gives the same outputs, with copied
        parameters of its dtype and device, made of torch's own layers.

    Raises:
        ConversionError: `net` is no `Network`.

    Example:
        >>> net = graphnn.from_edges([("x", "h", 2.0), ("x", "y", -1.0), ("h", "y", 3.0)])
        >>> module = graphnn.to_module(net)
        >>> module.levels[1].linear.weight
        Parameter containing:
        tensor([[-1.,  3.]], requires_grad=True)
        >>> torch.equal(module(torch.ones(1, 1)), net(torch.ones(1, 1)))
        True
    """
    if not isinstance(net, Network):
        raise ConversionError(f"net must be a graphnn.Network (got {type(net).__name__}).")
    graph = net.graph
    plan = build_plan(graph, net.weight.device)
    tables = plan.tables
    parameters = NetworkParameters.of(net)
    levels, sources = [], []
    for level in tables.levels:
        place = torch.arange(level.size, device=plan.device)
        cells = Cells(level.rows, level.columns, place, level.pool_size)
        linear = parameters.linear(level, cells, masked)
        levels.append(LinearLevel(linear, write_activation_layer(level_activations(level))))
        sources.append(Gather(dict(zip(level.pool_levels, level.pool_rows, strict=True))))
    return LinearLevels(
        levels,
        sources,
        Gather(dict(tables.output_rows), tables.output_order),
        {name: ids.numel() for name, ids in graph.inputs.items()},
        {name: ids.numel() for name, ids in graph.outputs.items()},
        tables.input_columns,
        net.output_transform,
    ).to(plan.device)


class LinearLevel(nn.Module):
    """One level of a network: an nn.Linear and its activation.

    Args:
        linear: From the values of the level's distinct sources, ascending by level, then by
            neuron id, to the preactivations of its neurons, ascending by id.
        activation: From preactivations to values.
    """

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.activation = activation

    def forward(self, sources: Tensor) -> Tensor:
        """Maps the sources' values (*, S) to the level's (*, n)."""
        return self.activation(self.linear(sources))


class Gather(nn.Module):
    """Picks values from several levels and concatenates them.

    Args:
        rows: Level -> the places (int64) to pick there, or None for all of it.
        order: A permutation (int64) of what is picked, or None.
    """

    order: Tensor | None

    def __init__(self, rows: Mapping[int, Tensor | None], order: Tensor | None = None) -> None:
        super().__init__()
        self.levels = tuple(rows)
        for level, places in rows.items():
            # Places follow from the wiring: a state holds the parameters only.
            self._keep(f"rows_{level}", places)
        self._keep("order", order)

    def _keep(self, name: str, places: Tensor | None) -> None:
        # A plan's tensors are shared by all networks of its graph.
        self.register_buffer(name, None if places is None else places.clone(), persistent=False)

    def forward(self, values: Sequence[Tensor]) -> Tensor:
        """Picks from the levels' values, each (*, n); gives (*, S)."""
        pieces = []
        for level in self.levels:
            rows = getattr(self, f"rows_{level}")
            pieces.append(values[level] if rows is None else values[level].index_select(-1, rows))
        if not pieces:
            return values[0][..., :0]
        joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)
        return joined if self.order is None else joined.index_select(-1, self.order)


class LinearLevels(nn.Module):
    """A network as nn.Linear levels over concatenated sources; `to_module` makes it.

    Every entry of `levels` is a `LinearLevel` that runs once a call, so that a tool's forward hook
    on it, on its ``linear`` or on its ``activation`` sees one level.

    Args:
        levels: Levels 1 ... L - 1.
        sources: For each, what it reads.
        outputs: The output neurons, groups one after the other.
        in_features: Input group -> number of neurons.
        out_features: Output group -> number of neurons.
        input_columns: The input column of each neuron of level 0, or None where that is the order.
        output_transform: None, "softmax" or "log_softmax", over each output group.
    """

    input_columns: Tensor | None

    def __init__(
        self,
        levels: Sequence[LinearLevel],
        sources: Sequence[Gather],
        outputs: Gather,
        in_features: Mapping[str, int],
        out_features: Mapping[str, int],
        input_columns: Tensor | None,
        output_transform: str | None,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.sources = nn.ModuleList(sources)
        self.outputs = outputs
        self.in_features = dict(in_features)
        self.out_features = dict(out_features)
        columns = None if input_columns is None else input_columns.clone()
        self.register_buffer("input_columns", columns, persistent=False)
        self.output_transform = output_transform
        # Tracers do not follow the making of a class.
        self._output_tuple = output_tuple(tuple(self.out_features))

    def __getstate__(self) -> dict[str, Any]:
        # A class that was made at run time has no name to be pickled by.
        return {name: value for name, value in self.__dict__.items() if name != "_output_tuple"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._output_tuple = output_tuple(tuple(self.out_features))

    def forward(self, /, *inputs: Tensor, **named: Tensor) -> Any:
        """Runs the levels.

        Args:
            inputs: One tensor (*, n) for each input group, in declared order.
            named: The same by group name.

        Returns:
            (*, n_out), or with several output groups a named tuple of one such tensor for each.

        Raises:
            GraphError: Groups or numbers of columns do not fit.
        """
        joined = torch.cat(self._by_group(inputs, named), -1)
        if self.input_columns is not None:
            joined = joined.index_select(-1, self.input_columns)
        values = [joined]
        for sources, level in zip(self.sources, self.levels, strict=True):
            values.append(level(sources(values)))
        outputs = self.outputs(values)
        if len(self.out_features) == 1:
            return self._transform(outputs)
        # A part is copied: written to in place, a view would change its neighbours.
        parts = outputs.split(list(self.out_features.values()), -1)
        return self._output_tuple(*[self._transform(part.clone()) for part in parts])

    def _transform(self, values: Tensor) -> Tensor:
        if self.output_transform is None:
            return values
        function = torch.softmax if self.output_transform == "softmax" else torch.log_softmax
        return function(values, -1)

    def _by_group(self, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> list[Tensor]:
        names = list(self.in_features)
        if named and (inputs or set(named) != set(names)):
            raise GraphError(
                f"inputs must come in order, or by name for the groups {', '.join(names)} (got "
                f"{len(inputs)} in order and the names {', '.join(named)})."
            )
        given = [named[name] for name in names] if named else list(inputs)
        if len(given) != len(names):
            raise GraphError(
                f"one input must be given for each of the groups {', '.join(names)} "
                f"(got {len(given)} inputs)."
            )
        for (name, size), x in zip(self.in_features.items(), given, strict=True):
            if x.dim() == 0 or x.shape[-1] != size:
                raise GraphError(
                    f"input {name!r} must have shape (*, {size}), one column a neuron "
                    f"(got {tuple(x.shape)})."
                )
        return given
