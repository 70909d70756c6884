"""The LSTM over sequences, forward and backward, in NumPy.

torch's own LSTM cannot start anew within a sequence, as episodes do; a loop of torch's steps can, and costs more.
What concerns the observations alone is computed for the whole sequence before; see `ppo_engine.recurrent.cells`.

Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.
"""

from dataclasses import dataclass

import numpy as np

from ppo_engine.recurrent.arrays import Floats, aligned


@dataclass(frozen=True, slots=True)
class LSTMTrace:
    """What the backward pass needs of a forward pass; L steps of S sequences, U units."""

    gates: Floats
    """[L, S, 4, U], after their nonlinearities: input, forget, cell, output."""
    hidden: Floats
    """[L, S, U] hidden state that each step began with, zeroed at starts."""
    cell: Floats
    """[L, S, U] cell state that each step began with, zeroed at starts."""
    squashed: Floats
    """[L, S, U], tanh of the cell state that each step ended with."""


def lstm_forward(inputs: Floats, weight: Floats, state: Floats, keep: Floats) -> tuple[Floats, Floats, LSTMTrace]:
    """Hidden states of L steps [L, S, U], and the state [S, 2U] after the last.

    Args:
        inputs: [L, S, 4U], what the observations and the biases add to the gates.
        weight: [4U, U], of the hidden state.
        state: [S, 2U], hidden and cell state.
        keep: [L, S, 1], 0 where an episode starts, else 1.
    """
    steps, rows, width = inputs.shape
    units, dtype = width // 4, inputs.dtype
    # The logistic function is (1 + tanh(x / 2)) / 2: one tanh computes all gates.
    scale = np.full((4, units), 0.5, dtype)
    scale[2] = 1.0
    scale = scale.reshape(width)
    shift = 1 - scale
    scaled, transposed = inputs * scale, aligned((units, width), dtype)
    np.multiply(weight.T, scale, out=transposed)
    hidden, gates = aligned((steps, rows, units), dtype), aligned((steps, rows, 4, units), dtype)
    befores, cells, squashed = (aligned((steps, rows, units), dtype) for _ in range(3))
    product, c = aligned((rows, width), dtype), aligned((rows, units), dtype)
    h = state[:, :units]
    c[...] = state[:, units:]
    for t in range(steps):
        gate = gates[t]
        np.multiply(h, keep[t], out=befores[t])
        np.multiply(c, keep[t], out=cells[t])
        np.matmul(befores[t], transposed, out=product)
        product += scaled[t]
        np.tanh(product, out=product)
        product *= scale
        np.add(product, shift, out=gate.reshape(rows, width))
        np.multiply(gate[:, 1], cells[t], out=c)
        c += gate[:, 0] * gate[:, 2]
        np.tanh(c, out=squashed[t])
        h = np.multiply(gate[:, 3], squashed[t], out=hidden[t])
    return hidden, np.concatenate([h, c], axis=1), LSTMTrace(gates, befores, cells, squashed)


def lstm_backward(trace: LSTMTrace, weight: Floats, keep: Floats, gradient: Floats) -> tuple[Floats, Floats]:
    """Gradients of `inputs` [L, S, 4U] and `weight` [4U, U], given that of the hidden states [L, S, U].

    None goes back beyond the state that the sequences began with, nor comes from the one that they end with.
    """
    steps, rows, units = gradient.shape
    dtype = gradient.dtype
    i, f, g, o = (trace.gates[:, :, gate] for gate in range(4))
    # By how much each gate changes the cell state, and the last one the hidden state, per change of its input.
    slopes = aligned((steps, rows, 4, units), dtype)
    np.multiply(g, i * (1 - i), out=slopes[:, :, 0])
    np.multiply(trace.cell, f * (1 - f), out=slopes[:, :, 1])
    np.multiply(i, 1 - g * g, out=slopes[:, :, 2])
    np.multiply(trace.squashed, o * (1 - o), out=slopes[:, :, 3])
    outward, forgotten = o * (1 - trace.squashed * trace.squashed), f * keep
    d_inputs = aligned((steps, rows, 4 * units), dtype)
    d_hidden, d_cell = aligned((rows, units), dtype), aligned((rows, units), dtype)
    d_hidden[...], d_cell[...] = 0, 0
    for t in reversed(range(steps)):
        d_hidden += gradient[t]
        d_cell += d_hidden * outward[t]
        d_gates = d_inputs[t].reshape(rows, 4, units)
        np.multiply(d_cell[:, None], slopes[t, :, :3], out=d_gates[:, :3])
        np.multiply(d_hidden, slopes[t, :, 3], out=d_gates[:, 3])
        d_cell *= forgotten[t]
        np.matmul(d_inputs[t], weight, out=d_hidden)
        d_hidden *= keep[t]
    d_weight = aligned((4 * units, units), dtype)
    np.matmul(d_inputs.reshape(-1, 4 * units).T, trace.hidden.reshape(-1, units), out=d_weight)
    return d_inputs, d_weight
