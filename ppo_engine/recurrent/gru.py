"""The GRU over sequences, forward and backward, in NumPy; see `ppo_engine.recurrent.lstm` for why.

As cuDNN and torch have it, the reset gate acts behind the product with the hidden state, so that one product serves all
gates. Source: Cho et al. 2014, arXiv:1406.1078v1
"""

from dataclasses import dataclass

import numpy as np

from ppo_engine.recurrent.arrays import Floats, aligned


@dataclass(frozen=True, slots=True)
class GRUTrace:
    """What the backward pass needs of a forward pass; L steps of S sequences, U units."""

    gates: Floats
    """[L, S, 3, U], after their nonlinearities: reset, update, candidate."""
    hidden: Floats
    """[L, S, U] hidden state that each step began with, zeroed at starts."""
    recalled: Floats
    """[L, S, U], what the hidden state has for the candidate, before the reset gate."""


def gru_forward(
    inputs: Floats, weight: Floats, bias: Floats, state: Floats, keep: Floats
) -> tuple[Floats, Floats, GRUTrace]:
    """Hidden states of L steps [L, S, U], and the state [S, U] after the last.

    Args:
        inputs: [L, S, 3U], what the observations and the biases add to the gates.
        weight: [3U, U], of the hidden state.
        bias: [U], of what the reset gate lets through.
        state: [S, U], hidden state.
        keep: [L, S, 1], 0 where an episode starts, else 1.
    """
    steps, rows, width = inputs.shape
    units, dtype = width // 3, inputs.dtype
    hidden, gates = aligned((steps, rows, units), dtype), aligned((steps, rows, 3, units), dtype)
    befores, recalled = aligned((steps, rows, units), dtype), aligned((steps, rows, units), dtype)
    transposed, product = aligned((units, width), dtype), aligned((rows, width), dtype)
    transposed[...] = weight.T
    h = state
    for t in range(steps):
        gate, openings = gates[t], gates[t, :, :2]
        np.multiply(h, keep[t], out=befores[t])
        np.matmul(befores[t], transposed, out=product)
        np.add(product.reshape(rows, 3, units)[:, :2], inputs[t].reshape(rows, 3, units)[:, :2], out=openings)
        # The logistic function.
        openings *= 0.5
        np.tanh(openings, out=openings)
        openings *= 0.5
        openings += 0.5
        np.add(product[:, 2 * units :], bias, out=recalled[t])
        candidate = np.multiply(gate[:, 0], recalled[t], out=gate[:, 2])
        candidate += inputs[t, :, 2 * units :]
        np.tanh(candidate, out=candidate)
        h = np.subtract(befores[t], candidate, out=hidden[t])
        h *= gate[:, 1]
        h += candidate
    return hidden, h.copy(), GRUTrace(gates, befores, recalled)


def gru_backward(trace: GRUTrace, weight: Floats, keep: Floats, gradient: Floats) -> tuple[Floats, Floats, Floats]:
    """Gradients of `inputs` [L, S, 3U], `weight` [3U, U] and `bias` [U], given that of the hidden states [L, S, U].

    None goes back beyond the state that the sequences began with, nor comes from the one that they end with.
    """
    steps, rows, units = gradient.shape
    dtype = gradient.dtype
    r, z, n = (trace.gates[:, :, gate] for gate in range(3))
    # By how much update gate and candidate change the hidden state, per change of their inputs.
    slopes = aligned((steps, rows, 2, units), dtype)
    np.multiply(trace.hidden - n, z * (1 - z), out=slopes[:, :, 0])
    np.multiply(1 - z, 1 - n * n, out=slopes[:, :, 1])
    reset_slope = trace.recalled * (r * (1 - r))
    d_inputs, d_product = (aligned((steps, rows, 3 * units), dtype) for _ in range(2))
    d_hidden = aligned((rows, units), dtype)
    d_hidden[...] = 0
    for t in reversed(range(steps)):
        d_hidden += gradient[t]
        d_gates, d_recalled = d_inputs[t].reshape(rows, 3, units), d_product[t].reshape(rows, 3, units)
        np.multiply(d_hidden[:, None], slopes[t], out=d_gates[:, 1:])
        np.multiply(d_gates[:, 2], reset_slope[t], out=d_gates[:, 0])
        d_recalled[:, :2] = d_gates[:, :2]
        np.multiply(d_gates[:, 2], r[t], out=d_recalled[:, 2])
        d_hidden *= z[t]
        d_hidden += d_product[t] @ weight
        d_hidden *= keep[t]
    flat = d_product.reshape(-1, 3 * units)
    d_weight = aligned((3 * units, units), dtype)
    np.matmul(flat.T, trace.hidden.reshape(-1, units), out=d_weight)
    return d_inputs, d_weight, flat[:, 2 * units :].sum(axis=0)
