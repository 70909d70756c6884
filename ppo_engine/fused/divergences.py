"""KL(old ‖ new) between the policy that acted and the one that learns, its gradient, and the penalty on it.

As `ppo_engine.distributions.densities` and `ppo_engine.objectives` have them.
"""

import math
from typing import NamedTuple

import numpy as np

from ppo_engine.compiled import compiled_fast, inlined, part_fast
from ppo_engine.fused.functions import exp, sigmoid
from ppo_engine.fused.heads import BERNOULLI, CATEGORICAL, Head, forbid, largest_of
from ppo_engine.fused.network import Activations, Floats, Masks, Network, write_head

_ZERO = np.float32(0)
_BOUND = 1e29
"""Beyond it lie the logits of bits that masks bind, and infinity, which is a fault."""


class Penalty(NamedTuple):
    """What the mean KL of a minibatch costs; see `ppo_engine.spec.KLPenaltySpec`."""

    coef: float
    target: float
    stiffness: float
    log_std: Floats
    """[A] of the policy that acted."""


@inlined
def cost_and_slope(penalty: Penalty, kl: float) -> tuple[float, float]:
    """β times the stiffened KL, and its derivative by the KL."""
    excess = kl - penalty.target if kl > penalty.target else 0.0
    relative = penalty.stiffness * excess / penalty.target
    return penalty.coef * (kl + 0.5 * relative * excess), penalty.coef * (1.0 + relative)


@compiled_fast
def mean_kl(
    network: Network,
    head: Head,
    observations: Floats,
    masks: Masks,
    old: Floats,
    old_log_std: Floats,
    activations: Activations,
) -> float:
    """KL(old ‖ new) in the mean over rows, in float64: float32 loses it below 1e-7. Needs `transpose` beforehand.

    Args:
        observations: [B, D], normalised; `masks` [B, masks] say what is valid there, see `forbid`.
        old: [B, outputs] of the policy that acted; `old_log_std` [A] is its own, too.
        activations: memory for as many rows as are to go forwards at once.
    """
    log_std = network.parameters[network.log_std :]
    total, most = 0.0, len(activations.outputs)
    for first in range(0, len(observations), most):
        last = min(first + most, len(observations))
        outputs = activations.outputs[: last - first]
        write_head(network, 0, observations[first:last], activations, outputs)
        forbid(head, masks[first:last], outputs)
        if head.kind == CATEGORICAL:
            total += _categorical_kl(head, old[first:last], outputs)
        elif head.kind == BERNOULLI:
            total += _bernoulli_kl(old[first:last], outputs)
        else:
            total += _gaussian_kl(old[first:last], old_log_std, outputs, log_std)
    return total / len(observations)


@part_fast
def _categorical_kl(head: Head, old: Floats, new: Floats) -> float:
    """Σ p (log p - log q) over all rows; logits may be shifted."""
    total = 0.0
    for row in range(len(old)):
        first = 0
        for size in head.sizes:
            end = first + size
            old_largest = np.float64(largest_of(old, row, first, end))
            new_largest = np.float64(largest_of(new, row, first, end))
            old_sum, new_sum, distance = 0.0, 0.0, 0.0
            for j in range(first, end):
                p = math.exp(old[row, j] - old_largest)
                old_sum += p
                new_sum += math.exp(new[row, j] - new_largest)
                distance += p * (np.float64(old[row, j]) - new[row, j])
            total += distance / old_sum + (new_largest - old_largest) + (math.log(new_sum) - math.log(old_sum))
            first = end
    return total


@part_fast
def _bernoulli_kl(old: Floats, new: Floats) -> float:
    """Σ p (x - y) + log (1 + exp y) - log (1 + exp x) over all rows and bits, for logits x and y; 0 of bound bits."""
    total = 0.0
    for row in range(len(old)):
        for column in range(old.shape[1]):
            x, y = np.float64(old[row, column]), np.float64(new[row, column])
            distance = (x - y) / (1.0 + math.exp(-x)) + _softplus(y) - _softplus(x)
            total += 0.0 if _BOUND < abs(x) < math.inf else distance
    return total


@part_fast
def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@part_fast
def _gaussian_kl(old: Floats, old_log_std: Floats, new: Floats, log_std: Floats) -> float:
    """½ Σ (r² - 1 - log r² + z²) over all rows; r is the quotient of the deviations, old over new."""
    total = 0.0
    for column in range(len(log_std)):
        log_ratio = np.float64(old_log_std[column]) - log_std[column]
        precision = math.exp(-np.float64(log_std[column]))
        squares = 0.0
        for row in range(len(old)):
            z = (np.float64(new[row, column]) - old[row, column]) * precision
            squares += z * z
        total += 0.5 * (squares + len(old) * (math.expm1(2 * log_ratio) - 2 * log_ratio))
    return total


@inlined
def add_kl_gradients(
    head: Head,
    old: Floats,
    old_log_std: Floats,
    new: Floats,
    probabilities: Floats,
    log_std: Floats,
    by_kl: np.float32,
    output_gradients: Floats,
    log_std_gradients: Floats,
) -> None:
    """Adds the loss's gradients by outputs [B, outputs] and log-std [A], through the KL of each row.

    Args:
        new, probabilities: [B, outputs], as `log_probs_and_entropies` left them.
        by_kl: the loss's derivative by each row's KL, the same for all.
    """
    if head.kind == CATEGORICAL:
        _add_categorical(head, old, probabilities, by_kl, output_gradients)
    elif head.kind == BERNOULLI:
        for row in range(len(old)):
            for column in range(old.shape[1]):
                moved = sigmoid(new[row, column]) - sigmoid(old[row, column])
                output_gradients[row, column] += by_kl * moved
    else:
        _add_gaussian(old, old_log_std, new, log_std, by_kl, output_gradients, log_std_gradients)


@part_fast
def _add_categorical(head: Head, old: Floats, probabilities: Floats, by_kl: np.float32, result: Floats) -> None:
    """∂ KL / ∂ logit_j = q_j - p_j."""
    for row in range(len(old)):
        first = 0
        for size in head.sizes:
            end = first + size
            largest, total = largest_of(old, row, first, end), _ZERO
            for j in range(first, end):
                total += exp(old[row, j] - largest)
            for j in range(first, end):
                result[row, j] += by_kl * (probabilities[row, j] - exp(old[row, j] - largest) / total)
            first = end


@part_fast
def _add_gaussian(
    old: Floats,
    old_log_std: Floats,
    new: Floats,
    log_std: Floats,
    by_kl: np.float32,
    result: Floats,
    log_std_gradients: Floats,
) -> None:
    """∂ KL / ∂ mean = z / σ, ∂ KL / ∂ log σ = 1 - r² - z²."""
    for column in range(len(log_std)):
        precision = exp(-log_std[column])
        log_ratio = np.float64(old_log_std[column]) - log_std[column]
        total = np.float32(-len(old) * math.expm1(2 * log_ratio))
        for row in range(len(old)):
            z = (new[row, column] - old[row, column]) * precision
            result[row, column] += by_kl * z * precision
            total -= z * z
        log_std_gradients[column] += by_kl * total
