"""The LSTM over sequences, forward and backward.

torch's own cannot start anew within a sequence, as episodes do. What concerns the observations alone is computed for
the whole sequence before; see `ppo_engine.recurrent.cells`.

Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled_fast, compiled_fast_in_place
from ppo_engine.fused.functions import sigmoid, tanh

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

LSTM_ROOM = 7
"""Numbers that the forward pass leaves for the backward pass: to each unit, step and sequence so many."""

_ZERO, _ONE = np.float32(0), np.float32(1)


class _Trace(NamedTuple):
    """What the forward pass leaves for the backward pass; L steps of S sequences, U units."""

    gates: Floats
    """[L, S, 4U], after their nonlinearities: input, forget, cell, output."""
    hidden: Floats
    """[L, S, U], the hidden state that each step began with, zeroed at starts."""
    cell: Floats
    """[L, S, U], the cell state that each step began with, zeroed at starts."""
    squashed: Floats
    """[L, S, U], tanh of the cell state that each step ended with."""


# One array, and not four, since to make one in Python takes 2 us, a tenth of what a step of acting computes for.
@compiled_fast
def _trace_in(room: Floats, steps: int, rows: int, units: int) -> _Trace:
    """The parts of `room`, [L * S * U * LSTM_ROOM]."""
    size = steps * rows * units
    gates, parts = room[: 4 * size].reshape(steps, rows, 4 * units), room[4 * size :].reshape(3, steps, rows, units)
    return _Trace(gates, parts[0], parts[1], parts[2])


@compiled_fast
def lstm_forward(inputs: Floats, weight: Floats, starts: Flags, state: Floats, outputs: Floats, room: Floats) -> None:
    """L steps: their hidden states into `outputs` [L, S, U], the state that they end with into `state` [S, 2U].

    Args:
        inputs: [L, S, 4U], what the observations and the biases add to the gates.
        weight: [4U, U], of the hidden state.
        starts: [L, S], whether an episode starts with the step.
        state: hidden and cell state to begin with.
        room: [L * S * U * LSTM_ROOM], whatever it holds; what the backward pass needs afterwards.
    """
    steps, rows, units = outputs.shape
    trace = _trace_in(room, steps, rows, units)
    for t in range(steps):
        hidden, cell, gates = trace.hidden[t], trace.cell[t], trace.gates[t]
        _recall(state, starts[t], hidden, cell)
        np.dot(hidden, weight.T, gates)
        _activate(inputs[t], gates)
        _remember(gates, cell, state, trace.squashed[t], outputs[t])


@compiled_fast_in_place
def _recall(state: Floats, starts: Flags, hidden: Floats, cell: Floats) -> None:
    """A state [S, 2U], zeroed where an episode starts, as hidden and cell state [S, U]."""
    rows, units = hidden.shape
    for row in range(rows):
        keep = _ZERO if starts[row] else _ONE
        before, h, c = state[row], hidden[row], cell[row]
        for unit in range(units):
            h[unit] = before[unit] * keep
        for unit in range(units):
            c[unit] = before[units + unit] * keep


@compiled_fast_in_place
def _activate(added: Floats, gates: Floats) -> None:
    """The gates [S, 4U]: what the hidden state gives them, and `added` to it."""
    units = gates.shape[1] // 4
    for row in range(len(gates)):
        of_row, more = gates[row], added[row]
        for place in range(2 * units):
            of_row[place] = sigmoid(of_row[place] + more[place])
        for place in range(2 * units, 3 * units):
            of_row[place] = tanh(of_row[place] + more[place])
        for place in range(3 * units, 4 * units):
            of_row[place] = sigmoid(of_row[place] + more[place])


# Few arrays to a loop: the compiler makes vector code only where it need not ask of many pairs whether they overlap.
@compiled_fast_in_place
def _remember(gates: Floats, before: Floats, state: Floats, squashed: Floats, outputs: Floats) -> None:
    """The state [S, 2U] after one step, the tanh of its cell state, and its hidden state [S, U]."""
    rows, units = before.shape
    for row in range(rows):
        of_row, hidden, cell = gates[row], state[row, :units], state[row, units:]
        i, f, g, o = of_row[:units], of_row[units : 2 * units], of_row[2 * units : 3 * units], of_row[3 * units :]
        past, tanh_of_cell, output = before[row], squashed[row], outputs[row]
        for unit in range(units):
            cell[unit] = f[unit] * past[unit] + i[unit] * g[unit]
        for unit in range(units):
            tanh_of_cell[unit] = tanh(cell[unit])
        for unit in range(units):
            output[unit] = o[unit] * tanh_of_cell[unit]
        for unit in range(units):
            hidden[unit] = output[unit]


@compiled_fast
def lstm_backward(
    left: Floats,
    weight: Floats,
    starts: Flags,
    gradient: Floats,
    room: Floats,
    d_inputs: Floats,
    d_weight: Floats,
) -> None:
    """Gradients of `inputs` [L, S, 4U] and `weight` [4U, U], given that of the hidden states [L, S, U].

    None goes back beyond the state that the sequences began with, nor comes from the one that they end with.

    Args:
        left: the room of `lstm_forward`.
        room: [2, S, U], whatever it holds.
    """
    steps, rows, units = gradient.shape
    trace = _trace_in(left, steps, rows, units)
    room[:] = _ZERO
    d_hidden, d_cell = room[0], room[1]
    for step in range(steps):
        t = steps - 1 - step
        _gate_gradients(trace.gates[t], trace.cell[t], trace.squashed[t], gradient[t], d_hidden, d_cell, d_inputs[t])
        _go_back(trace.gates[t], starts[t], d_cell)
        np.dot(d_inputs[t], weight, d_hidden)
        for row in range(rows):
            if starts[t, row]:
                d_hidden[row] = _ZERO
    np.dot(d_inputs.reshape(steps * rows, 4 * units).T, trace.hidden.reshape(steps * rows, units), d_weight)


@compiled_fast_in_place
def _gate_gradients(
    gates: Floats, before: Floats, squashed: Floats, gradient: Floats, d_hidden: Floats, d_cell: Floats, d_gates: Floats
) -> None:
    """Gradients of what the gates [S, 4U] are made of.

    Args:
        d_hidden: [S, U], of the next step; of this one's hidden state afterwards, with `gradient` [S, U].
        d_cell: [S, U], likewise.
    """
    rows, units = before.shape
    for row in range(rows):
        of_row, d_row, more = gates[row], d_gates[row], gradient[row]
        i, f, g, o = of_row[:units], of_row[units : 2 * units], of_row[2 * units : 3 * units], of_row[3 * units :]
        di, df, dg, do = d_row[:units], d_row[units : 2 * units], d_row[2 * units : 3 * units], d_row[3 * units :]
        past, tanh_of_cell, of_hidden, of_cell = before[row], squashed[row], d_hidden[row], d_cell[row]
        for unit in range(units):
            of_hidden[unit] += more[unit]
        for unit in range(units):
            of_cell[unit] += of_hidden[unit] * o[unit] * (_ONE - tanh_of_cell[unit] * tanh_of_cell[unit])
        for unit in range(units):
            di[unit] = of_cell[unit] * g[unit] * i[unit] * (_ONE - i[unit])
        for unit in range(units):
            df[unit] = of_cell[unit] * past[unit] * f[unit] * (_ONE - f[unit])
        for unit in range(units):
            dg[unit] = of_cell[unit] * i[unit] * (_ONE - g[unit] * g[unit])
        for unit in range(units):
            do[unit] = of_hidden[unit] * tanh_of_cell[unit] * o[unit] * (_ONE - o[unit])


@compiled_fast_in_place
def _go_back(gates: Floats, starts: Flags, d_cell: Floats) -> None:
    """The gradient of the cell state [S, U] that a step ended with becomes that of the one that it began with."""
    rows, units = d_cell.shape
    for row in range(rows):
        keep = _ZERO if starts[row] else _ONE
        forget, of_cell = gates[row, units : 2 * units], d_cell[row]
        for unit in range(units):
            of_cell[unit] *= forget[unit] * keep
