"""Adam on the flat buffers of `ppo_engine.adam.Adam`, in one pass."""

import math
from typing import NamedTuple

import numpy as np

from ppo_engine.adam import Adam
from ppo_engine.compiled import compiled_fast
from ppo_engine.fused.network import Floats


class Moments(NamedTuple):
    """Parameters, their gradients and Adam's moments, [P] each, and its constants."""

    parameters: Floats
    gradients: Floats
    m: Floats
    v: Floats
    beta1: float
    beta2: float
    epsilon: float


def moments_of(adam: Adam) -> Moments:
    """The optimiser's own memory; the gradients have one of their own."""
    parameters = adam.parameters.numpy()
    gradients = np.zeros_like(parameters)
    return Moments(parameters, gradients, adam.m.numpy(), adam.v.numpy(), adam.beta1, adam.beta2, adam.epsilon)


@compiled_fast
def norm_of(gradients: Floats) -> float:
    """The Euclidean norm."""
    total = np.float32(0)
    for i in range(gradients.size):
        total += gradients[i] * gradients[i]
    return math.sqrt(total)


@compiled_fast
def step(moments: Moments, steps: int, learning_rate: float, scale: float) -> None:
    """Steps the parameters in place by their gradients times `scale`; `steps` counts from 1.

    Source: Kingma and Ba 2015, arXiv:1412.6980.
    """
    parameters, gradients, m, v = moments.parameters, moments.gradients, moments.m, moments.v
    beta2, epsilon = np.float32(moments.beta2), np.float32(moments.epsilon)
    # Rounded after the subtraction: 1 - float32(0.999) is off by 1.3e-5 of itself.
    new_in_m, new_in_v = np.float32(1 - moments.beta1), np.float32(1 - moments.beta2)
    step_size = np.float32(learning_rate / (1 - moments.beta1**steps))
    inverse_correction = np.float32(1 / math.sqrt(1 - moments.beta2**steps))
    by = np.float32(scale)
    for i in range(parameters.size):
        gradient = by * gradients[i]
        m[i] += new_in_m * (gradient - m[i])
        v[i] = beta2 * v[i] + new_in_v * gradient * gradient
        parameters[i] -= step_size * m[i] / (math.sqrt(v[i]) * inverse_correction + epsilon)
