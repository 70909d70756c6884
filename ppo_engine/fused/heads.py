"""Action distributions: sampling, log-probabilities and entropies, as in `ppo_engine.distributions`.

Rows of actions are float32 whatever the head, so that one machine code serves all: choices are whole numbers.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled_fast, part_fast
from ppo_engine.distributions import LOG_STD_BOUNDS, Bernoulli, MultiCategorical, SquashedGaussian
from ppo_engine.distributions.densities import IMPOSSIBLE
from ppo_engine.fused.functions import exp, sigmoid, tanh
from ppo_engine.fused.network import Floats, Masks, copy
from ppo_engine.policy import Policy
from ppo_engine.squashing import centre_and_reach

CATEGORICAL, BERNOULLI, GAUSSIAN, SQUASHED = range(4)

_ZERO, _ONE, _TWO, _HALF = np.float32(0), np.float32(1), np.float32(2), np.float32(0.5)
_LOG_2 = np.float32(math.log(2))
_HALF_LOG_TAU = np.float32(0.5 * math.log(2 * math.pi))
_IMPOSSIBLE = np.float32(IMPOSSIBLE)
_LOG_STD_LOW, _LOG_STD_HIGH = map(np.float32, LOG_STD_BOUNDS)


class Head(NamedTuple):
    """The kind of distribution that a policy's outputs parametrise."""

    kind: int
    sizes: NDArray[np.int64]
    """Choices of each categorical; of the other kinds one entry per column, without meaning."""
    centre: Floats
    """[A] of a squashed action's interval, and below its half width and bounds; empty for other kinds."""
    reach: Floats
    low: Floats
    high: Floats


def head_of(policy: Policy) -> Head:
    """The head of a policy's action space."""
    distribution, space = policy.distribution, policy.action_space
    empty = np.zeros(0, np.float32)
    sizes = np.array(space.sizes, np.int64)
    if isinstance(distribution, MultiCategorical):
        return Head(CATEGORICAL, sizes, empty, empty, empty, empty)
    if isinstance(distribution, Bernoulli):
        return Head(BERNOULLI, sizes, empty, empty, empty, empty)
    if isinstance(distribution, SquashedGaussian) and space.low is not None and space.high is not None:
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return Head(SQUASHED, sizes, *centre_and_reach(low, high), low, high)
    return Head(GAUSSIAN, sizes, empty, empty, empty, empty)


@compiled_fast
def forbid(head: Head, masks: Masks, outputs: Floats) -> None:
    """Gives what is not valid probability 0 to the bit, in outputs [B, outputs], and by that its output no gradient.

    Args:
        masks: [B, masks] as `Distribution.masked` takes them; without columns, all is valid.
    """
    if masks.shape[1] == 0:
        return
    for row in range(len(outputs)):
        for column in range(outputs.shape[1]):
            if head.kind == CATEGORICAL:
                if not masks[row, column]:
                    outputs[row, column] = _IMPOSSIBLE
            elif not masks[row, 2 * column]:
                outputs[row, column] = -_IMPOSSIBLE
            elif not masks[row, 2 * column + 1]:
                outputs[row, column] = _IMPOSSIBLE


@compiled_fast
def sample(head: Head, outputs: Floats, log_std: Floats, noise: Floats, actions: Floats) -> None:
    """Writes action rows [B, columns]; `noise` [B, columns] is uniform or normal, as the kind wants it."""
    for row in range(len(outputs)):
        if head.kind == CATEGORICAL:
            first = 0
            for column in range(len(head.sizes)):
                end = first + head.sizes[column]
                actions[row, column] = _choice(outputs, row, first, end, noise[row, column])
                first = end
        elif head.kind == BERNOULLI:
            for column in range(actions.shape[1]):
                one = noise[row, column] < sigmoid(outputs[row, column])
                actions[row, column] = _ONE if one else _ZERO
        else:
            for column in range(actions.shape[1]):
                deviation = exp(log_std[column])
                actions[row, column] = outputs[row, column] + deviation * noise[row, column]


@part_fast
def _choice(outputs: Floats, row: int, first: int, end: int, uniform: np.float32) -> int:
    """The first choice whose cumulative probability exceeds `uniform`, by the logits from column `first` to `end`.

    Never one of probability 0, however sums were rounded.
    """
    largest, total = largest_of(outputs, row, first, end), _ZERO
    for j in range(first, end):
        total += exp(outputs[row, j] - largest)
    threshold, cumulative, chosen = uniform * total, _ZERO, first
    for j in range(first, end):
        weight = exp(outputs[row, j] - largest)
        if weight > _ZERO:
            cumulative += weight
            chosen = j
            if threshold < cumulative:
                break
    return chosen - first


@part_fast
def largest_of(outputs: Floats, row: int, first: int, end: int) -> np.float32:
    """The largest number of a row from column `first` to `end`."""
    largest: np.float32 = outputs[row, first]
    for j in range(first + 1, end):
        largest = outputs[row, j] if outputs[row, j] > largest else largest
    return largest


@part_fast
def environment_rows(head: Head, actions: Floats, rows: Floats) -> None:
    """Action rows [B, columns] as the environment takes them: between its bounds where they are squashed."""
    if head.kind != SQUASHED:
        copy(actions, rows)
        return
    for row in range(len(actions)):
        for column in range(actions.shape[1]):
            scaled = head.centre[column] + head.reach[column] * tanh(actions[row, column])
            rows[row, column] = min(max(scaled, head.low[column]), head.high[column])


@compiled_fast
def log_probs_and_entropies(
    head: Head,
    outputs: Floats,
    log_std: Floats,
    actions: Floats,
    log_probs: Floats,
    entropies: Floats,
    probabilities: Floats,
) -> None:
    """Writes log-probabilities and entropies [B] of action rows.

    The logits of categoricals are replaced by the logarithms of their probabilities, which `output_gradients` takes
    together with the `probabilities` [B, outputs] written here.
    """
    if head.kind == CATEGORICAL:
        _categorical(head, outputs, actions, log_probs, entropies, probabilities)
    elif head.kind == BERNOULLI:
        _bernoulli(outputs, actions, log_probs, entropies)
    else:
        _gaussian(outputs, log_std, actions, log_probs, entropies)
        if head.kind == SQUASHED:
            _squash(actions, log_probs, entropies)


@part_fast
def _categorical(
    head: Head, outputs: Floats, actions: Floats, log_probs: Floats, entropies: Floats, probabilities: Floats
) -> None:
    for row in range(len(outputs)):
        log_prob, entropy, first = _ZERO, _ZERO, 0
        for column in range(len(head.sizes)):
            end = first + head.sizes[column]
            largest, total = largest_of(outputs, row, first, end), _ZERO
            for j in range(first, end):
                probabilities[row, j] = exp(outputs[row, j] - largest)
                total += probabilities[row, j]
            shift = largest + math.log(total)
            for j in range(first, end):
                outputs[row, j] -= shift
                probabilities[row, j] /= total
                entropy -= probabilities[row, j] * outputs[row, j]
            log_prob += outputs[row, first + int(actions[row, column])]
            first = end
        log_probs[row], entropies[row] = log_prob, entropy


@part_fast
def _bernoulli(outputs: Floats, actions: Floats, log_probs: Floats, entropies: Floats) -> None:
    for row in range(len(outputs)):
        log_prob, entropy = _ZERO, _ZERO
        for column in range(outputs.shape[1]):
            logit = outputs[row, column]
            log_one, log_zero = -softplus(-logit), -softplus(logit)
            log_prob += log_one if actions[row, column] > _ZERO else log_zero
            # Not the sum of log-probabilities by probabilities: of bound bits one is -1e30, and would swallow what is
            # beside it if the sum were made in another order.
            size = abs(logit)
            entropy += softplus(-size) + size * sigmoid(-size)
        log_probs[row], entropies[row] = log_prob, entropy


@part_fast
def _gaussian(outputs: Floats, log_std: Floats, actions: Floats, log_probs: Floats, entropies: Floats) -> None:
    total_log_std = log_std.sum()
    columns = np.float32(outputs.shape[1])
    constant = total_log_std + columns * _HALF_LOG_TAU
    entropies[:] = constant + _HALF * columns
    log_probs[:] = -constant
    for column in range(outputs.shape[1]):
        precision = exp(-log_std[column])
        for row in range(len(outputs)):
            z = (actions[row, column] - outputs[row, column]) * precision
            log_probs[row] -= _HALF * z * z


@part_fast
def _squash(actions: Floats, log_probs: Floats, entropies: Floats) -> None:
    for row in range(len(actions)):
        slope = _ZERO
        for column in range(actions.shape[1]):
            u = actions[row, column]
            slope += _TWO * (_LOG_2 - u - softplus(-_TWO * u))
        log_probs[row] -= slope
        entropies[row] += slope


@part_fast
def project(log_std: Floats) -> None:
    """Brings the log-std back into its bounds after a step."""
    for column in range(len(log_std)):
        value = log_std[column]
        log_std[column] = _LOG_STD_LOW if value < _LOG_STD_LOW else (_LOG_STD_HIGH if value > _LOG_STD_HIGH else value)


@part_fast
def softplus(x: np.float32) -> np.float32:
    """log(1 + exp(x)), without overflow."""
    return max(x, _ZERO) + math.log1p(math.exp(-abs(x)))
