"""Acrobot, as gymnasium/envs/classic_control/acrobot.py has it: same operations, in the same order.

Both links have length, mass and moment of inertia 1, and their centre of mass in the middle; factors of 1 are left out.
Physics: the two angles and their velocities. Parameters: the exponent TWO, and whether NumPy takes polynomials.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled_in_place
from ppo_engine.envs.batched.arithmetic import clip, cosine_of_single, sine_of_single, single
from ppo_engine.envs.batched.pcg64 import uniform

GRAVITY = 9.8
HALF_TURN = math.pi
TURN = 2 * math.pi
QUARTER_TURN = math.pi / 2.0
MAX_VELOCITY_1, MAX_VELOCITY_2 = 4 * math.pi, 9 * math.pi
DT = 0.2
HALF_DT = DT / 2.0
SIXTH_DT = DT / 6.0
WEIGHT_1, WEIGHT_2 = 1.5 * GRAVITY, 0.5 * GRAVITY


@compiled_in_place
def reset(physics: NDArray[np.float64], generators: NDArray[np.uint64]) -> None:
    for env in range(len(physics)):
        for feature in range(4):
            physics[env, feature] = single(uniform(generators, env, -0.1, 0.1))


@compiled_in_place
def step(
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    actions: NDArray[Any],
    rewards: NDArray[np.float64],
    terminated: NDArray[np.bool_],
) -> None:
    two = parameters[0]
    for env in range(len(physics)):
        torque = np.float64(actions[env, 0]) - 1.0
        a, b, c, d = physics[env, 0], physics[env, 1], physics[env, 2], physics[env, 3]
        c1, d1 = accelerations(a, b, c, d, torque, two)
        a2, b2 = c + HALF_DT * c1, d + HALF_DT * d1
        c2, d2 = accelerations(a + HALF_DT * c, b + HALF_DT * d, a2, b2, torque, two)
        a3, b3 = c + HALF_DT * c2, d + HALF_DT * d2
        c3, d3 = accelerations(a + HALF_DT * a2, b + HALF_DT * b2, a3, b3, torque, two)
        a4, b4 = c + DT * c3, d + DT * d3
        c4, d4 = accelerations(a + DT * a3, b + DT * b3, a4, b4, torque, two)
        a = wrapped(a + SIXTH_DT * (c + 2.0 * a2 + 2.0 * a3 + a4))
        b = wrapped(b + SIXTH_DT * (d + 2.0 * b2 + 2.0 * b3 + b4))
        c = clip(c + SIXTH_DT * (c1 + 2.0 * c2 + 2.0 * c3 + c4), -MAX_VELOCITY_1, MAX_VELOCITY_1)
        d = clip(d + SIXTH_DT * (d1 + 2.0 * d2 + 2.0 * d3 + d4), -MAX_VELOCITY_2, MAX_VELOCITY_2)
        physics[env, 0], physics[env, 1], physics[env, 2], physics[env, 3] = a, b, c, d
        terminated[env] = -math.cos(a) - math.cos(b + a) > 1.0
        rewards[env] = 0.0 if terminated[env] else -1.0


@compiled_in_place
def observe(
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    observations: NDArray[np.float32],
) -> None:
    for env in range(len(physics)):
        for joint in range(2):
            angle = physics[env, joint]
            if lengths[env] == 0:
                # An episode starts from numbers of 32 bits, and so do its cosines.
                is_polynomial = parameters[1] != 0.0
                observations[env, 2 * joint] = cosine_of_single(np.float32(angle), is_polynomial)
                observations[env, 2 * joint + 1] = sine_of_single(np.float32(angle), is_polynomial)
            else:
                observations[env, 2 * joint], observations[env, 2 * joint + 1] = math.cos(angle), math.sin(angle)
            observations[env, 4 + joint] = physics[env, 2 + joint]


@compiled_in_place
def accelerations(
    theta1: float, theta2: float, velocity1: float, velocity2: float, torque: float, two: float
) -> tuple[float, float]:
    """The accelerations of both joints. Source: Sutton and Barto, "Reinforcement Learning", section on the acrobot."""
    cos2, sin2 = math.cos(theta2), math.sin(theta2)
    d1 = 0.25 + (1.25 + cos2) + 1.0 + 1.0
    d2 = 0.25 + 0.5 * cos2 + 1.0
    phi2 = WEIGHT_2 * math.cos(theta1 + theta2 - QUARTER_TURN)
    phi1 = (
        -0.5 * math.pow(velocity2, two) * sin2
        - velocity2 * velocity1 * sin2
        + WEIGHT_1 * math.cos(theta1 - QUARTER_TURN)
        + phi2
    )
    acceleration2 = (torque + d2 / d1 * phi1 - 0.5 * math.pow(velocity1, two) * sin2 - phi2) / (
        1.25 - math.pow(d2, two) / d1
    )
    return -(d2 * acceleration2 + phi1) / d1, acceleration2


@compiled_in_place
def wrapped(angle: float) -> float:
    """The angle within [-pi, pi]."""
    while angle > HALF_TURN:
        angle = angle - TURN
    while angle < -HALF_TURN:
        angle = angle + TURN
    return angle
