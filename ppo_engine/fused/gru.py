"""The GRU over sequences, forward and backward; see `ppo_engine.fused.lstm` for why.

As cuDNN and torch have it, the reset gate acts behind the product with the hidden state, so that one product serves all
gates. Source: Cho et al. 2014, arXiv:1406.1078v1
"""

from typing import NamedTuple

import numpy as np

from ppo_engine.compiled import compiled_fast
from ppo_engine.fused.functions import sigmoid, tanh
from ppo_engine.fused.lstm import Floats

_ZERO, _ONE = np.float32(0), np.float32(1)


class GRUTrace(NamedTuple):
    """What the forward pass leaves for the backward pass; L steps of S sequences, U units."""

    gates: Floats
    """[L, S, 3U], after their nonlinearities: reset, update, candidate."""
    hidden: Floats
    """[L, S, U], the hidden state that each step began with, zeroed at starts."""
    recalled: Floats
    """[L, S, U], what the hidden state has for the candidate, before the reset gate."""


@compiled_fast
def gru_forward(
    inputs: Floats, weight: Floats, bias: Floats, keep: Floats, state: Floats, outputs: Floats, trace: GRUTrace
) -> None:
    """L steps: their hidden states into `outputs` [L, S, U], the last of them into `state` [S, U].

    Args:
        inputs: [L, S, 3U], what the observations and the biases add to the gates.
        weight: [3U, U], of the hidden state.
        bias: [U], of what the reset gate lets through.
        keep: [L, S], 0 where an episode starts, else 1.
        state: the hidden state to begin with.
    """
    steps, rows, units = outputs.shape
    for t in range(steps):
        hidden, gates = trace.hidden[t], trace.gates[t]
        for row in range(rows):
            for unit in range(units):
                hidden[row, unit] = state[row, unit] * keep[t, row]
        np.dot(hidden, weight.T, gates)
        for row in range(rows):
            _activate(inputs[t, row], bias, gates[row], trace.recalled[t, row])
            _remember(gates[row], hidden[row], outputs[t, row])
            state[row] = outputs[t, row]


@compiled_fast
def _activate(added: Floats, bias: Floats, gates: Floats, recalled: Floats) -> None:
    """The gates [3U] of one row: what the hidden state gives them, and `added` to it; for `bias` see `gru_forward`."""
    units = len(bias)
    for place in range(2 * units):
        gates[place] = sigmoid(gates[place] + added[place])
    reset, candidate, seen = gates[:units], gates[2 * units :], added[2 * units :]
    for unit in range(units):
        recalled[unit] = candidate[unit] + bias[unit]
    for unit in range(units):
        candidate[unit] = tanh(reset[unit] * recalled[unit] + seen[unit])


@compiled_fast
def _remember(gates: Floats, before: Floats, hidden: Floats) -> None:
    """The hidden state [U] after one step."""
    units = len(before)
    update, candidate = gates[units : 2 * units], gates[2 * units :]
    for unit in range(units):
        hidden[unit] = candidate[unit] + update[unit] * (before[unit] - candidate[unit])


@compiled_fast
def gru_backward(
    trace: GRUTrace,
    weight: Floats,
    keep: Floats,
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
        room: [2, S, U], whatever it holds.
        d_products: [L, S, 3U], to be filled with the gradients of the products with the hidden state: those of the
            inputs, but for the candidate's, which passes the reset gate.
    """
    steps, rows, units = gradient.shape
    room[:] = _ZERO
    d_bias[:] = _ZERO
    d_hidden, through = room[0], room[1]
    for step in range(steps):
        t = steps - 1 - step
        for row in range(rows):
            gate, change, product = trace.gates[t, row], d_inputs[t, row], d_products[t, row]
            for unit in range(units):
                r, z, n = gate[unit], gate[units + unit], gate[2 * units + unit]
                of_hidden = d_hidden[row, unit] + gradient[t, row, unit]
                of_candidate = of_hidden * (_ONE - z) * (_ONE - n * n)
                of_update = of_hidden * (trace.hidden[t, row, unit] - n) * z * (_ONE - z)
                of_reset = of_candidate * trace.recalled[t, row, unit] * r * (_ONE - r)
                change[unit], change[units + unit], change[2 * units + unit] = of_reset, of_update, of_candidate
                product[unit], product[units + unit], product[2 * units + unit] = of_reset, of_update, of_candidate * r
                d_bias[unit] += of_candidate * r
                d_hidden[row, unit] = of_hidden * z
        np.dot(d_products[t], weight, through)
        for row in range(rows):
            for unit in range(units):
                d_hidden[row, unit] = (d_hidden[row, unit] + through[row, unit]) * keep[t, row]
    np.dot(d_products.reshape(steps * rows, 3 * units).T, trace.hidden.reshape(steps * rows, units), d_weight)
