"""The clipped loss and its derivatives by log-probabilities and values, as `ppo_engine.loss` has it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import part_fast
from ppo_engine.fused.divergences import Penalty
from ppo_engine.fused.functions import exp
from ppo_engine.fused.network import Floats, Masks
from ppo_engine.loss import LOG_RATIO_MAX

LOSS, POLICY_LOSS, VALUE_LOSS, ENTROPY, APPROX_KL, CLIP_FRACTION = range(6)
"""Entries of a row of terms, in the order of `ppo_engine.loss.LossTerms`."""

_LOG_RATIO_MAX = np.float32(LOG_RATIO_MAX)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


class LossWeights(NamedTuple):
    """The numbers that weigh and bound the loss of one iteration."""

    clip_range: float
    """What `clip_fraction` counts by."""
    lowest_ratio: float
    """Ratios are clipped to these two; they are infinite where the surrogate is the plain one."""
    highest_ratio: float
    floor: float
    """How many times a bad action's advantage its term is at the worst; infinite without a dual clip."""
    clip_range_vf: float
    """Infinite where the value's change is not clipped."""
    vf_coef: float
    ent_coef: float
    penalty: Penalty
    """For rows that have outputs."""


class Rows(NamedTuple):
    """Rows of a rollout, [B, ...] each, as `ppo_engine.loss.Minibatch` has them."""

    observations: Floats
    actions: Floats
    log_probs: Floats
    values: Floats
    advantages: Floats
    returns: Floats
    outputs: Floats
    """Of the policy that acted; without columns where no penalty asks for them."""
    masks: Masks
    """What was valid; without columns where all is."""


@part_fast
def loss_and_derivatives(
    log_probs: Floats,
    entropies: Floats,
    values: Floats,
    batch: Rows,
    by: LossWeights,
    share: np.float32,
    by_log_prob: Floats,
    by_value: Floats,
    terms: NDArray[np.float64],
) -> None:
    """Writes the loss's derivatives by each log-probability and value [B], and adds to its terms [6].

    The rows may be some of a minibatch: each counts by `share`, one over all.

    A log-probability has no derivative where the clipped surrogate is the smaller one, or the floor above it, a value
    none where its clipped error is the greater one.
    """
    rows = len(values)
    low, high = np.float32(by.lowest_ratio), np.float32(by.highest_ratio)
    clip_range, value_range = np.float32(by.clip_range), np.float32(by.clip_range_vf)
    floor, vf_coef = np.float32(by.floor), np.float32(by.vf_coef)
    surrogates, errors, total_entropy, kl, clipped = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    for row in range(rows):
        log_ratio = log_probs[row] - batch.log_probs[row]
        is_bounded = log_ratio > _LOG_RATIO_MAX
        log_ratio = _LOG_RATIO_MAX if is_bounded else log_ratio
        ratio = exp(log_ratio)
        advantage = batch.advantages[row]
        free = ratio * advantage
        bound = (low if ratio < low else (high if ratio > high else ratio)) * advantage
        moves = low <= ratio <= high or free < bound
        by_log_prob[row] = -share * free if moves and not is_bounded else _ZERO
        surrogate, worst = bound if bound < free else free, floor * advantage
        if advantage < _ZERO and surrogate < worst:
            surrogate, by_log_prob[row] = worst, _ZERO
        surrogates += surrogate
        kl += ratio - _ONE - log_ratio
        clipped += _ONE if abs(ratio - _ONE) > clip_range else _ZERO

        error = values[row] - batch.returns[row]
        change = values[row] - batch.values[row]
        square, slope = error * error, _TWO * error
        if abs(change) > value_range:
            moved = batch.values[row] + (value_range if change > _ZERO else -value_range) - batch.returns[row]
            if moved * moved > square:
                square, slope = moved * moved, _ZERO
        by_value[row] = share * vf_coef * slope
        errors += square
        total_entropy += entropies[row]
    terms[POLICY_LOSS] -= surrogates * share
    terms[VALUE_LOSS] += errors * share
    terms[ENTROPY] += total_entropy * share
    terms[APPROX_KL] += kl * share
    terms[CLIP_FRACTION] += clipped * share
    terms[LOSS] = terms[POLICY_LOSS] + by.vf_coef * terms[VALUE_LOSS]
    if by.ent_coef != 0.0:
        terms[LOSS] -= by.ent_coef * terms[ENTROPY]
