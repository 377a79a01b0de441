"""From a layered network to an nn.Sequential, and the nn.Linear of one level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graphnn.activation import Activation
from graphnn.convert.activation_layer import write_activation_layer
from graphnn.errors import ConversionError
from graphnn.levels import Level
from graphnn.network import Network
from graphnn.parametrize import Frozen, frozen_mask
from graphnn.plan import ExecutionPlan, build_plan


def to_sequential(net: Network, masked: bool = False) -> nn.Sequential:
    """Converts a layered network into an nn.Sequential of nn.Linear and activation modules.

    A level of computed neurons becomes an nn.Linear, without bias where none of its neurons has
    one, followed by its activation: torch's own module, or a `NeuronActivation` where neurons
    differ or torch has none. A level of one-to-one edges of weight 1 that a `Frozen` holds, as
    `from_sequential` makes of an activation without a Linear, becomes the activation alone. A
    Linear all of whose edges are held, or require no gradient, requires none either.

    Args:
        net: One input group, one output group made of the last level's neurons in any order, and
            every edge from the level directly below its target.
        masked: Whether missing edges and biases, which are zeros, and entries that a `Frozen`
            holds in `net` stay as they are in training, by `torch.nn.utils.parametrize`.

    Returns:
        A new nn.Sequential with copied parameters, of the network's dtype and device.

    Raises:
        ConversionError: The network is not layered so; the first skip edge, or the neuron or
            group that is in the way, is named. `to_module` takes every network.

    Example:
        >>> graph = graphnn.NeuronGraph([[0, 1, 1], [2, 2, 3]], activation="relu", bias=False)
        >>> stack = graphnn.to_sequential(graphnn.Network(graph, [1.0, 2.0, 3.0]))
        >>> stack
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=False)
          (1): ReLU()
        )
        >>> stack[0].weight.detach()
        tensor([[1., 2.],
                [0., 3.]])
    """
    if not isinstance(net, Network):
        raise ConversionError(f"net must be a graphnn.Network (got {type(net).__name__}).")
    _check_layered(net)
    plan = build_plan(net.graph, net.weight.device)
    parameters = NetworkParameters.of(net)
    rows_of_outputs = plan.output_position - plan.level_ptr[-2]
    modules: list[nn.Module] = []
    for level in plan.levels:
        is_last = level.index == plan.num_levels - 1
        order = rows_of_outputs if is_last else torch.arange(level.size, device=plan.device)
        place = order.argsort()
        activations = level_activations(level)
        activation = [activations[row] for row in order.tolist()]
        cells = Cells(place[level.rows], _columns(plan, level), place, _width(plan, level))
        is_identity = all(entry.function == "identity" for entry in activation)
        if is_identity or not parameters.only_activates(level, cells):
            modules.append(parameters.linear(level, cells, masked))
        if not is_identity:
            modules.append(write_activation_layer(activation))
    if net.output_transform is not None:
        is_softmax = net.output_transform == "softmax"
        modules.append(nn.Softmax(dim=-1) if is_softmax else nn.LogSoftmax(dim=-1))
    return nn.Sequential(*modules).to(plan.device)


def _check_layered(net: Network) -> None:
    graph = net.graph.to("cpu")
    for role, groups in (("input", graph.inputs), ("output", graph.outputs)):
        if len(groups) != 1:
            raise ConversionError(
                f"an nn.Sequential has one {role}, but the network has the {role} groups "
                f"{', '.join(map(repr, groups))}. graphnn.to_module takes several."
            )
    level = graph.level
    source, target = graph.edge_index
    skips = (level[target] - level[source] != 1).nonzero().squeeze(1)
    if skips.numel():
        edge = int(skips[0])
        low, high = int(source[edge]), int(target[edge])
        raise ConversionError(
            f"in an nn.Sequential every edge comes from the level directly below, but edge {edge} "
            f"skips from {graph.describe(low)} on level {int(level[low])} to "
            f"{graph.describe(high)} on level {int(level[high])} ({skips.numel()} such edges in "
            "all). graphnn.to_module takes skip connections."
        )
    last = graph.num_levels - 1
    if last == 0:
        raise ConversionError("the network must have at least one neuron that is not an input.")
    outputs = graph.output_ids
    lower = outputs[level[outputs] != last]
    if lower.numel():
        neuron = int(lower[0])
        raise ConversionError(
            f"the outputs of an nn.Sequential are its last level, {last}, but the output "
            f"{graph.describe(neuron)} is on level {int(level[neuron])}. Use graphnn.to_module."
        )
    times = torch.bincount(outputs, minlength=graph.num_neurons)
    if bool((times > 1).any()):
        neuron = int((times > 1).nonzero()[0])
        raise ConversionError(
            f"an output of an nn.Sequential occurs once, but {graph.describe(neuron)} occurs "
            f"{int(times[neuron])} times. Use graphnn.to_module."
        )
    silent = ((level == last) & (times == 0)).nonzero()
    if silent.numel():
        raise ConversionError(
            f"every neuron of the last level, {last}, must be an output, but "
            f"{graph.describe(int(silent[0]))} is none. Remove it, or use graphnn.to_module."
        )


def _width(plan: ExecutionPlan, level: Level) -> int:
    ptr = plan.level_ptr
    return int(ptr[level.index] - ptr[level.index - 1])


def _columns(plan: ExecutionPlan, level: Level) -> Tensor:
    """(E_l,) place of each edge's source among all neurons of the level below."""
    if not level.pool_levels or level.pool_rows[0] is None:
        columns = level.columns
    else:
        columns = level.pool_rows[0][level.columns]
    input_columns = plan.tables.input_columns
    return columns if level.index > 1 or input_columns is None else input_columns[columns]


def level_activations(level: Level) -> list[Activation]:
    """The activation of each neuron of a level, in the level's order."""
    activations = [level.activations[0][0]] * level.size
    for activation, places in level.activations[1:]:
        assert places is not None
        for place in places.tolist():
            activations[place] = activation
    return activations


@dataclass(frozen=True, eq=False)
class Cells:
    """Where the parameters of a level lie in an nn.Linear.

    Args:
        rows: (E_l,) the row of each edge's weight, in the order of `Level.edges`.
        columns: (E_l,) its column.
        place: (n,) the row of each neuron of the level.
        width: The number of columns.
    """

    rows: Tensor
    columns: Tensor
    place: Tensor
    width: int


@dataclass(frozen=True, eq=False)
class NetworkParameters:
    """A network's parameters as they are now, and which of them are trained.

    Args:
        weight: (E,).
        bias: (K,).
        held: "weight" and "bias" -> bools of that shape: True where not trained.
    """

    weight: Tensor
    bias: Tensor
    held: dict[str, Tensor]

    @classmethod
    @torch.enable_grad()
    def of(cls, net: Network) -> NetworkParameters:
        """Reads a network's parameters, through whatever parametrizes them."""
        held = {}
        for name in ("weight", "bias"):
            value = getattr(net, name)
            mask = frozen_mask(net, name)
            untrained = not value.requires_grad
            held[name] = torch.full(value.shape, untrained, device=value.device)
            if mask is not None:
                held[name] |= mask
        return cls(net.weight.detach(), net.bias.detach(), held)

    def only_activates(self, level: Level, cells: Cells) -> bool:
        """Whether a level passes the one below on, by held weights of 1 and without biases."""
        weight, held = self.weight[level.edges], self.held["weight"][level.edges]
        return (
            level.size == cells.width == weight.numel()
            and self.bias[level.bias].numel() == 0
            and bool((held & (weight == 1)).all())
            and torch.equal(cells.rows, cells.columns)
        )

    def linear(self, level: Level, cells: Cells, masked: bool) -> nn.Linear:
        """The nn.Linear of a level.

        Args:
            level: The level.
            cells: Where its parameters go.
            masked: Whether what is missing or held stays as it is in training.

        Returns:
            A layer with parameters of its own; zeros where edges or biases are missing.
        """
        has_bias = self.bias[level.bias].numel() > 0
        # Built small and on no device: nothing is drawn, and torch does not warn of empty layers.
        linear = nn.Linear(1, 1, bias=has_bias, device="meta")
        linear.in_features, linear.out_features = cells.width, level.size
        index = (cells.rows, cells.columns)
        self._install(linear, "weight", (level.size, cells.width), index, level.edges, masked)
        if has_bias:
            rows = cells.place if level.biased is None else cells.place[level.biased]
            self._install(linear, "bias", (level.size,), (rows,), level.bias, masked)
        return linear

    def _install(
        self,
        linear: nn.Linear,
        name: str,
        shape: tuple[int, ...],
        index: tuple[Tensor, ...],
        ids: slice | Tensor,
        masked: bool,
    ) -> None:
        own: Tensor = getattr(self, name)[ids]
        held = self.held[name][ids]
        value = own.new_zeros(shape).index_put_(index, own)
        trains = held.numel() == 0 or not bool(held.all())
        setattr(linear, name, nn.Parameter(value, requires_grad=trains))
        if not (masked and trains):
            return
        mask = torch.ones(shape, dtype=torch.bool, device=own.device).index_put_(index, held)
        if mask.any():
            parametrize.register_parametrization(linear, name, Frozen(mask, value.clone()))
