"""The GRU over sequences, forward and backward; see `ppo_engine.fused.lstm` for why.

As cuDNN and torch have it, the reset gate acts behind the product with the hidden state, so that one product serves all
gates. Source: Cho et al. 2014, arXiv:1406.1078v1
"""

from typing import NamedTuple

import numpy as np

from ppo_engine.compiled import compiled_fast, compiled_fast_in_place
from ppo_engine.fused.functions import sigmoid, tanh
from ppo_engine.fused.lstm import Flags, Floats

GRU_ROOM = 5
"""As `LSTM_ROOM`."""

_ZERO, _ONE = np.float32(0), np.float32(1)


class _Trace(NamedTuple):
    """What the forward pass leaves for the backward pass; L steps of S sequences, U units."""

    gates: Floats
    """[L, S, 3U], after their nonlinearities: reset, update, candidate."""
    hidden: Floats
    """[L, S, U], the hidden state that each step began with, zeroed at starts."""
    recalled: Floats
    """[L, S, U], what the hidden state has for the candidate, before the reset gate."""


@compiled_fast
def _trace_in(room: Floats, steps: int, rows: int, units: int) -> _Trace:
    """The parts of `room`, [L * S * U * GRU_ROOM]."""
    size = steps * rows * units
    gates, parts = room[: 3 * size].reshape(steps, rows, 3 * units), room[3 * size :].reshape(2, steps, rows, units)
    return _Trace(gates, parts[0], parts[1])


@compiled_fast
def gru_forward(
    inputs: Floats, weight: Floats, bias: Floats, starts: Flags, state: Floats, outputs: Floats, room: Floats
) -> None:
    """L steps: their hidden states into `outputs` [L, S, U], the last of them into `state` [S, U].

    Args:
        inputs: [L, S, 3U], what the observations and the biases add to the gates.
        weight: [3U, U], of the hidden state.
        bias: [U], of what the reset gate lets through.
        starts: [L, S], whether an episode starts with the step.
        state: the hidden state to begin with.
        room: [L * S * U * GRU_ROOM], whatever it holds; what the backward pass needs afterwards.
    """
    steps, rows, units = outputs.shape
    trace = _trace_in(room, steps, rows, units)
    for t in range(steps):
        hidden, gates = trace.hidden[t], trace.gates[t]
        _recall(state, starts[t], hidden)
        np.dot(hidden, weight.T, gates)
        _activate(inputs[t], bias, gates, trace.recalled[t])
        _remember(gates, hidden, state, outputs[t])


@compiled_fast_in_place
def _recall(state: Floats, starts: Flags, hidden: Floats) -> None:
    """The state [S, U], zeroed where an episode starts."""
    rows, units = hidden.shape
    for row in range(rows):
        keep = _ZERO if starts[row] else _ONE
        before, h = state[row], hidden[row]
        for unit in range(units):
            h[unit] = before[unit] * keep


@compiled_fast_in_place
def _activate(added: Floats, bias: Floats, gates: Floats, recalled: Floats) -> None:
    """The gates [S, 3U]: what the hidden state gives them, and `added` to it; for `bias` see `gru_forward`."""
    rows, units = recalled.shape
    for row in range(rows):
        of_row, more, remembered = gates[row], added[row], recalled[row]
        for place in range(2 * units):
            of_row[place] = sigmoid(of_row[place] + more[place])
        reset, candidate, seen = of_row[:units], of_row[2 * units :], more[2 * units :]
        for unit in range(units):
            remembered[unit] = candidate[unit] + bias[unit]
        for unit in range(units):
            candidate[unit] = tanh(reset[unit] * remembered[unit] + seen[unit])


@compiled_fast_in_place
def _remember(gates: Floats, before: Floats, state: Floats, outputs: Floats) -> None:
    """The hidden state [S, U] after one step, as `state` and among the outputs."""
    rows, units = before.shape
    for row in range(rows):
        past, hidden, output = before[row], state[row], outputs[row]
        update, candidate = gates[row, units : 2 * units], gates[row, 2 * units :]
        for unit in range(units):
            output[unit] = candidate[unit] + update[unit] * (past[unit] - candidate[unit])
        for unit in range(units):
            hidden[unit] = output[unit]


@compiled_fast
def gru_backward(
    left: Floats,
    weight: Floats,
    starts: Flags,
    gradient: Floats,
    room: Floats,
    d_products: Floats,
    d_inputs: Floats,
    d_weight: Floats,
    d_bias: Floats,
) -> None:
    """Gradients of `inputs` [L, S, 3U], `weight` [3U, U] and `bias` [U], given that of the hidden states [L, S, U].

    None goes back beyond the state that the sequences began with, nor comes from the one that they end with.

    Args:
        left: the room of `gru_forward`.
        room: [2, S, U], whatever it holds.
        d_products: [L, S, 3U], to be filled with the gradients of the products with the hidden state: those of the
            inputs, but for the candidate's, which passes the reset gate.
    """
    steps, rows, units = gradient.shape
    trace = _trace_in(left, steps, rows, units)
    room[:] = _ZERO
    d_bias[:] = _ZERO
    d_hidden, through = room[0], room[1]
    for step in range(steps):
        t = steps - 1 - step
        _gate_gradients(trace, t, gradient[t], d_hidden, d_inputs[t], d_products[t], d_bias)
        np.dot(d_products[t], weight, through)
        for row in range(rows):
            keep = _ZERO if starts[t, row] else _ONE
            for unit in range(units):
                d_hidden[row, unit] = (d_hidden[row, unit] + through[row, unit]) * keep
    np.dot(d_products.reshape(steps * rows, 3 * units).T, trace.hidden.reshape(steps * rows, units), d_weight)


@compiled_fast_in_place
def _gate_gradients(
    trace: _Trace, t: int, gradient: Floats, d_hidden: Floats, d_gates: Floats, d_products: Floats, d_bias: Floats
) -> None:
    """Gradients of what the gates [S, 3U] of step t are made of, and of their products with the hidden state.

    Args:
        d_hidden: [S, U], of the next step, to which comes `gradient` [S, U]; afterwards what goes back past the gates.
        d_bias: [U], to which is added.
    """
    rows, units = gradient.shape
    for row in range(rows):
        of_row, d_row, product = trace.gates[t, row], d_gates[row], d_products[row]
        r, z, n = of_row[:units], of_row[units : 2 * units], of_row[2 * units :]
        dr, dz, dn = d_row[:units], d_row[units : 2 * units], d_row[2 * units :]
        before, recalled, of_hidden, more = trace.hidden[t, row], trace.recalled[t, row], d_hidden[row], gradient[row]
        for unit in range(units):
            of_hidden[unit] += more[unit]
        for unit in range(units):
            dn[unit] = of_hidden[unit] * (_ONE - z[unit]) * (_ONE - n[unit] * n[unit])
        for unit in range(units):
            dz[unit] = of_hidden[unit] * (before[unit] - n[unit]) * z[unit] * (_ONE - z[unit])
        for unit in range(units):
            dr[unit] = dn[unit] * recalled[unit] * r[unit] * (_ONE - r[unit])
        for place in range(2 * units):
            product[place] = d_row[place]
        candidate = product[2 * units :]
        for unit in range(units):
            candidate[unit] = dn[unit] * r[unit]
        for unit in range(units):
            d_bias[unit] += candidate[unit]
        for unit in range(units):
            of_hidden[unit] *= z[unit]
