"""The LSTM over sequences, forward and backward.

torch's own cannot start anew within a sequence, as episodes do. What concerns the observations alone is computed for
the whole sequence before; see `ppo_engine.recurrent.cells`.

Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled_fast
from ppo_engine.fused.functions import sigmoid, tanh

Floats = NDArray[np.float32]

_ZERO, _ONE = np.float32(0), np.float32(1)


class LSTMTrace(NamedTuple):
    """What the forward pass leaves for the backward pass; L steps of S sequences, U units."""

    gates: Floats
    """[L, S, 4U], after their nonlinearities: input, forget, cell, output."""
    hidden: Floats
    """[L, S, U], the hidden state that each step began with, zeroed at starts."""
    cell: Floats
    """[L, S, U], the cell state that each step began with, zeroed at starts."""
    squashed: Floats
    """[L, S, U], tanh of the cell state that each step ended with."""


@compiled_fast
def lstm_forward(
    inputs: Floats, weight: Floats, keep: Floats, state: Floats, outputs: Floats, trace: LSTMTrace
) -> None:
    """L steps: their hidden states into `outputs` [L, S, U], the state that they end with into `state` [S, 2U].

    Args:
        inputs: [L, S, 4U], what the observations and the biases add to the gates.
        weight: [4U, U], of the hidden state.
        keep: [L, S], 0 where an episode starts, else 1.
        state: hidden and cell state to begin with.
    """
    steps, rows = outputs.shape[:2]
    for t in range(steps):
        hidden, gates = trace.hidden[t], trace.gates[t]
        for row in range(rows):
            _keep_state(state[row], keep[t, row], hidden[row], trace.cell[t, row])
        np.dot(hidden, weight.T, gates)
        for row in range(rows):
            _activate(inputs[t, row], gates[row])
            _remember(gates[row], trace.cell[t, row], state[row], trace.squashed[t, row], outputs[t, row])


@compiled_fast
def _keep_state(state: Floats, keep: np.float32, hidden: Floats, cell: Floats) -> None:
    """A state [2U], zeroed where an episode starts, as hidden and cell state [U]."""
    units = len(hidden)
    for unit in range(units):
        hidden[unit] = state[unit] * keep
    for unit in range(units):
        cell[unit] = state[units + unit] * keep


@compiled_fast
def _activate(added: Floats, gates: Floats) -> None:
    """The gates [4U] of one row: what the hidden state gives them, and `added` to it."""
    units = len(gates) // 4
    for place in range(2 * units):
        gates[place] = sigmoid(gates[place] + added[place])
    for place in range(2 * units, 3 * units):
        gates[place] = tanh(gates[place] + added[place])
    for place in range(3 * units, 4 * units):
        gates[place] = sigmoid(gates[place] + added[place])


# Few arrays to a loop: the compiler makes vector code only where it need not ask of many pairs whether they overlap.
@compiled_fast
def _remember(gates: Floats, before: Floats, state: Floats, squashed: Floats, output: Floats) -> None:
    """The state [2U] after one step, the tanh of its cell state, and its hidden state [U]."""
    units = len(before)
    hidden, cell = state[:units], state[units:]
    i, f, g, o = gates[:units], gates[units : 2 * units], gates[2 * units : 3 * units], gates[3 * units :]
    for unit in range(units):
        cell[unit] = f[unit] * before[unit] + i[unit] * g[unit]
    for unit in range(units):
        squashed[unit] = tanh(cell[unit])
    for unit in range(units):
        output[unit] = o[unit] * squashed[unit]
    hidden[:] = output


@compiled_fast
def lstm_backward(
    trace: LSTMTrace,
    weight: Floats,
    keep: Floats,
    gradient: Floats,
    room: Floats,
    d_inputs: Floats,
    d_weight: Floats,
) -> None:
    """Gradients of `inputs` [L, S, 4U] and `weight` [4U, U], given that of the hidden states [L, S, U].

    None goes back beyond the state that the sequences began with, nor comes from the one that they end with.

    Args:
        room: [2, S, U], whatever it holds.
    """
    steps, rows, units = gradient.shape
    room[:] = _ZERO
    d_hidden, d_cell = room[0], room[1]
    for step in range(steps):
        t = steps - 1 - step
        for row in range(rows):
            gate, change = trace.gates[t, row], d_inputs[t, row]
            for unit in range(units):
                i, f, g, o = gate[unit], gate[units + unit], gate[2 * units + unit], gate[3 * units + unit]
                squashed = trace.squashed[t, row, unit]
                of_hidden = d_hidden[row, unit] + gradient[t, row, unit]
                of_cell = d_cell[row, unit] + of_hidden * o * (_ONE - squashed * squashed)
                change[unit] = of_cell * g * i * (_ONE - i)
                change[units + unit] = of_cell * trace.cell[t, row, unit] * f * (_ONE - f)
                change[2 * units + unit] = of_cell * i * (_ONE - g * g)
                change[3 * units + unit] = of_hidden * squashed * o * (_ONE - o)
                d_cell[row, unit] = of_cell * f * keep[t, row]
        np.dot(d_inputs[t], weight, d_hidden)
        for row in range(rows):
            for unit in range(units):
                d_hidden[row, unit] *= keep[t, row]
    np.dot(d_inputs.reshape(steps * rows, 4 * units).T, trace.hidden.reshape(steps * rows, units), d_weight)
