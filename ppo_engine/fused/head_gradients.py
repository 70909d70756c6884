"""How the loss moves with the outputs of the policy and its log-std, given how it moves with log-probabilities."""

import numpy as np

from ppo_engine.compiled import inlined, part_fast
from ppo_engine.fused.functions import exp, sigmoid, tanh
from ppo_engine.fused.heads import BERNOULLI, CATEGORICAL, SQUASHED, Head
from ppo_engine.fused.network import Floats

_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@inlined
def output_gradients(
    head: Head,
    outputs: Floats,
    probabilities: Floats,
    log_std: Floats,
    actions: Floats,
    by_log_prob: Floats,
    by_entropy: np.float32,
    output_gradients: Floats,
    log_std_gradients: Floats,
) -> None:
    """Writes the loss's gradients by outputs [B, outputs], and adds those by log-std [A] to what is there.

    Args:
        outputs, probabilities: as `log_probs_and_entropies` left them.
        by_log_prob: [B], the loss's derivative by each log-probability.
        by_entropy: its derivative by each entropy, the same for all.
    """
    if head.kind == CATEGORICAL:
        _categorical_gradients(head, outputs, probabilities, actions, by_log_prob, by_entropy, output_gradients)
    elif head.kind == BERNOULLI:
        _bernoulli_gradients(outputs, actions, by_log_prob, by_entropy, output_gradients)
    else:
        _gaussian_gradients(
            head, outputs, log_std, actions, by_log_prob, by_entropy, output_gradients, log_std_gradients
        )


@part_fast
def _categorical_gradients(
    head: Head,
    outputs: Floats,
    probabilities: Floats,
    actions: Floats,
    by_log_prob: Floats,
    by_entropy: np.float32,
    result: Floats,
) -> None:
    """∂ log p(a) / ∂ logit_j = [j = a] - p_j, and ∂ H / ∂ logit_j = -p_j (log p_j + H)."""
    for row in range(len(outputs)):
        first = 0
        for column in range(len(head.sizes)):
            end = first + head.sizes[column]
            entropy = _ZERO
            for j in range(first, end):
                entropy -= probabilities[row, j] * outputs[row, j]
            for j in range(first, end):
                result[row, j] = -probabilities[row, j] * (by_log_prob[row] + by_entropy * (outputs[row, j] + entropy))
            result[row, first + int(actions[row, column])] += by_log_prob[row]
            first = end


@part_fast
def _bernoulli_gradients(
    outputs: Floats, actions: Floats, by_log_prob: Floats, by_entropy: np.float32, result: Floats
) -> None:
    """∂ log p(a) / ∂ logit = a - p, and ∂ H / ∂ logit = -logit p (1 - p)."""
    for row in range(len(outputs)):
        for column in range(outputs.shape[1]):
            logit = outputs[row, column]
            probability = sigmoid(logit)
            by_entropy_here = by_entropy * logit * probability * (_ONE - probability)
            result[row, column] = by_log_prob[row] * (actions[row, column] - probability) - by_entropy_here


@part_fast
def _gaussian_gradients(
    head: Head,
    outputs: Floats,
    log_std: Floats,
    actions: Floats,
    by_log_prob: Floats,
    by_entropy: np.float32,
    result: Floats,
    log_std_gradients: Floats,
) -> None:
    """∂ log N / ∂ mean = z / σ, ∂ log N / ∂ log σ = z² - 1, ∂ H / ∂ log σ = 1; tanh adds what its slope does to H.

    The entropy's part that is estimated by the sample u = mean + σ z moves with it: ∂ log(1 - tanh² u) / ∂ u is
    -2 tanh u.
    """
    rows = len(outputs)
    for column in range(outputs.shape[1]):
        precision = exp(-log_std[column])
        total = by_entropy * np.float32(rows)
        for row in range(rows):
            z = (actions[row, column] - outputs[row, column]) * precision
            result[row, column] = by_log_prob[row] * z * precision
            total += by_log_prob[row] * (z * z - _ONE)
        if head.kind == SQUASHED and by_entropy != _ZERO:
            for row in range(rows):
                slope = by_entropy * -_TWO * tanh(actions[row, column])
                result[row, column] += slope
                total += slope * (actions[row, column] - outputs[row, column])
        log_std_gradients[column] += total
