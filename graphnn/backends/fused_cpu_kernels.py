"""A plan's levels over one tile of samples, forward and backward, in compiled code.

A tile holds W samples of every neuron: neuron position p of a tile is the W numbers from p * W on.
Samples are independent, so a tile walks through all levels without waiting for another. Padding
lanes repeat the tile's first sample, so that they hold nothing that a real sample does not.
A tile's width is a value of `lanes.TAGS`. Imports numba: import it where it is used.
"""

# pyright: reportCallIssue=false
# numba hands an intrinsic its typing context itself, which pyright cannot know.

from __future__ import annotations

from graphnn.backends.compiling import kernel
from graphnn.backends.elementwise import activate, multiply_by_slope
from graphnn.backends.lanes import fma, load, splat, store, times, total, width_of


@kernel
def read_inputs(tag, x, first, position, offset, neuron_order, state):
    """Puts the inputs of samples first ... into a tile's level 0, offsets added.

    Args:
        tag: The tile's width.
        x: (B, n_in) inputs.
        first: The tile's first sample.
        position: (n_in,) position of each input.
        offset: (B, N) in neuron order, or (0, N).
        neuron_order: (N,) neuron id at each position.
        state: (N * W,) the tile.
    """
    width = width_of(tag)
    last = x.shape[0] - 1
    for column in range(position.size):
        place = position[column] * width
        for lane in range(width):
            sample = first + lane
            sample = sample if sample <= last else first
            state[place + lane] = x[sample, column]
            if offset.shape[0] > 0:
                state[place + lane] += offset[sample, neuron_order[position[column]]]


@kernel
def write_columns(tag, state, first, position, out):
    """out[first + lane, column] = the tile's value at position[column], for the real samples."""
    width = width_of(tag)
    count = min(width, out.shape[0] - first)
    for lane in range(count):
        for column in range(position.size):
            out[first + lane, column] = state[position[column] * width + lane]


@kernel
def add_columns(tag, numbers, first, position, state):
    """Adds numbers[first + lane, column] to the tile at position[column]; positions may repeat."""
    width = width_of(tag)
    count = min(width, numbers.shape[0] - first)
    for lane in range(count):
        for column in range(position.size):
            state[position[column] * width + lane] += numbers[first + lane, column]


@kernel
def run_forward(tag, run_ptr, code, parameter, row_ptr, source, weight, row_bias, offset, first,
                neuron_order, pre, state):  # fmt: skip
    """Computes a tile, run after run.

    Args:
        tag: The tile's width.
        run_ptr: (R + 1,) offsets of the runs' positions: neurons of one level and activation.
        code: (R,) activation codes.
        parameter: (R, 2) activation parameters.
        row_ptr: (N + 1,) offsets of the positions' edges.
        source: (E,) source positions.
        weight: (E,) weights, in the plan's order.
        row_bias: (N,) bias of each position, 0 where it has none.
        offset: (B, N) added to the preactivations, in neuron order; (0, N) for none.
        first: The tile's first sample.
        neuron_order: (N,) neuron id at each position.
        pre: (N * W,) preactivations, written; may be `state`.
        state: (N * W,) values, read and written.
    """
    width = width_of(tag)
    count = min(width, offset.shape[0] - first)
    for run in range(code.size):
        top, end = run_ptr[run], run_ptr[run + 1]
        for row in range(top, end):
            sums = splat(tag, row_bias[row])
            for edge in range(row_ptr[row], row_ptr[row + 1]):
                sums = fma(splat(tag, weight[edge]), load(tag, state, source[edge] * width), sums)
            store(pre, row * width, sums)
            for lane in range(count):
                pre[row * width + lane] += offset[first + lane, neuron_order[row]]
        # Over a run at once: on single rows the price of the call would be most of it.
        activate(
            code[run], parameter[run, 0], parameter[run, 1], pre, state, top * width,
            (end - top) * width,
        )  # fmt: skip


@kernel
def run_backward(
    tag, run_ptr, code, parameter, out_ptr, target, weight, pre, state, added, gradient
):
    """Takes a tile's gradients back through all levels: the forward pass of the transpose.

    Args:
        tag: The tile's width.
        run_ptr: As in `run_forward`; positions below run_ptr[0] are inputs.
        code: As in `run_forward`.
        parameter: As in `run_forward`.
        out_ptr: (N + 1,) offsets of the positions' outgoing edges.
        target: (E,) their target positions.
        weight: (E,) their weights, in this order.
        pre: (N * W,) preactivations.
        state: (N * W,) values.
        added: (N * W,) gradients by preactivation from outside, or empty.
        gradient: (N * W,) gradients by value from outside; become those by preactivation.
    """
    width = width_of(tag)
    for run in range(code.size - 1, -2, -1):
        top = run_ptr[run] if run >= 0 else 0
        end = run_ptr[run + 1]
        for row in range(top, end):
            sums = load(tag, gradient, row * width)
            for edge in range(out_ptr[row], out_ptr[row + 1]):
                at = target[edge] * width
                sums = fma(splat(tag, weight[edge]), load(tag, gradient, at), sums)
            store(gradient, row * width, sums)
        if run >= 0:
            multiply_by_slope(
                code[run], parameter[run, 0], parameter[run, 1], pre, state, gradient, top * width,
                (end - top) * width,
            )  # fmt: skip
        if added.size > 0:
            for place in range(top * width, end * width):
                gradient[place] += added[place]


@kernel
def edge_gradients(tag, num_inputs, row_ptr, source, state, gradient, by_weight, by_row):
    """Adds a tile's gradients by weight and bias.

    Args:
        tag: The tile's width.
        num_inputs: Positions below this one have no edges and no bias.
        row_ptr: (N + 1,) offsets of the positions' incoming edges.
        source: (E,) source positions.
        state: (N * W,) values.
        gradient: (N * W,) gradients by preactivation.
        by_weight: (E,) added to, in the plan's order.
        by_row: (N,) added to: the gradients by bias.
    """
    width = width_of(tag)
    for row in range(num_inputs, row_ptr.size - 1):
        arriving = load(tag, gradient, row * width)
        by_row[row] += total(arriving)
        for edge in range(row_ptr[row], row_ptr[row + 1]):
            by_weight[edge] += total(times(arriving, load(tag, state, source[edge] * width)))


@kernel
def forward_tiles(tag, x, input_position, output_position, run_ptr, code, parameter, row_ptr,
                  source, weight, row_bias, offset, neuron_order, pres, states, out, first_tile,
                  end_tile):  # fmt: skip
    """Runs tiles first_tile ... end_tile - 1 through all levels.

    Args:
        tag: The tile's width.
        x: (B, n_in) inputs.
        input_position: (n_in,) position of each input.
        output_position: (n_out,) position of each output.
        run_ptr: As in `run_forward`, like those that follow.
        code: (R,).
        parameter: (R, 2).
        row_ptr: (N + 1,).
        source: (E,).
        weight: (E,).
        row_bias: (N,).
        offset: (B, N) or (0, N).
        neuron_order: (N,).
        pres: (tiles or 1, N * W) written; may be `states`.
        states: (tiles or 1, N * W) written. With one row, every tile uses it anew.
        out: (B, n_out) written.
        first_tile: First tile.
        end_tile: One past the last.
    """
    width = width_of(tag)
    for tile in range(first_tile, end_tile):
        first = tile * width
        slot = (tile - first_tile) % states.shape[0]
        pre, state = pres[slot], states[slot]
        read_inputs(tag, x, first, input_position, offset, neuron_order, state)
        run_forward(tag, run_ptr, code, parameter, row_ptr, source, weight, row_bias, offset, first,
                    neuron_order, pre, state)  # fmt: skip
        write_columns(tag, state, first, output_position, out)


@kernel
def backward_tiles(tag, by_output, output_position, by_value, by_pre, neuron_position,
                   input_position, run_ptr, code, parameter, row_ptr, source, out_ptr, target,
                   out_weight, pres, states, gradient, added, by_weight,
                   by_row, by_input, by_offset, first_tile, end_tile):  # fmt: skip
    """Takes the gradients of tiles first_tile ... end_tile - 1 back through all levels.

    Args:
        tag: The tile's width.
        by_output: (B, n_out) gradients by output, or (0, n_out).
        output_position: (n_out,) position of each output.
        by_value: (B, N) gradients by value, in neuron order, or (0, N).
        by_pre: (B, N) gradients by preactivation, or (0, N).
        neuron_position: (N,) position of each neuron id.
        input_position: (n_in,) position of each input.
        run_ptr: As in `run_backward`, like those that follow.
        code: (R,).
        parameter: (R, 2).
        row_ptr: (N + 1,) offsets of the positions' incoming edges.
        source: (E,) their source positions.
        out_ptr: (N + 1,) offsets of the positions' outgoing edges.
        target: (E,) their target positions.
        out_weight: (E,) their weights.
        pres: (tiles, N * W).
        states: (tiles, N * W).
        gradient: (N * W,) scratch.
        added: (N * W,) scratch, or empty where `by_pre` is.
        by_weight: (E,) added to.
        by_row: (N,) added to.
        by_input: (B, n_in) written, or (0, n_in).
        by_offset: (B, N) written, or (0, N).
        first_tile: First tile.
        end_tile: One past the last.
    """
    width = width_of(tag)
    num_inputs = input_position.size
    for tile in range(first_tile, end_tile):
        first = tile * width
        gradient[:] = 0
        added[:] = 0
        add_columns(tag, by_output, first, output_position, gradient)
        add_columns(tag, by_value, first, neuron_position, gradient)
        add_columns(tag, by_pre, first, neuron_position, added)
        run_backward(tag, run_ptr, code, parameter, out_ptr, target, out_weight, pres[tile],
                     states[tile], added, gradient)  # fmt: skip
        if by_weight.size + by_row.size > 0:
            edge_gradients(
                tag, num_inputs, row_ptr, source, states[tile], gradient, by_weight, by_row
            )
        write_columns(tag, gradient, first, input_position, by_input)
        write_columns(tag, gradient, first, neuron_position, by_offset)
