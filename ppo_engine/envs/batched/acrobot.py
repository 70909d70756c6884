"""Acrobot, as gymnasium/envs/classic_control/acrobot.py has it: same operations, in the same order.

Both links have length, mass and moment of inertia 1, and their centre of mass in the middle; factors of 1 are left out.
Physics: the two angles and their velocities. Parameters: the exponent TWO, and whether NumPy takes polynomials.
"""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import part_in_place
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

State: TypeAlias = tuple[float, float, float, float]
"""Two angles and their velocities, or what these change by."""


@part_in_place
def reset(physics: NDArray[np.float64], generators: NDArray[np.uint64]) -> None:
    for env in range(len(physics)):
        for feature in range(4):
            physics[env, feature] = single(uniform(generators, env, -0.1, 0.1))


@part_in_place
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
        state = physics[env, 0], physics[env, 1], physics[env, 2], physics[env, 3]
        a, b, c, d = integrated(state, np.float64(actions[env, 0]) - 1.0, two)
        a, b = wrapped(a), wrapped(b)
        physics[env, 0], physics[env, 1] = a, b
        physics[env, 2] = clip(c, -MAX_VELOCITY_1, MAX_VELOCITY_1)
        physics[env, 3] = clip(d, -MAX_VELOCITY_2, MAX_VELOCITY_2)
        terminated[env] = -math.cos(a) - math.cos(b + a) > 1.0
        rewards[env] = 0.0 if terminated[env] else -1.0


@part_in_place
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


@part_in_place
def integrated(state: State, torque: float, two: float) -> State:
    """The state after one step of the classical Runge-Kutta method."""
    k1 = derivative(state, torque, two)
    k2 = derivative(moved(state, HALF_DT, k1), torque, two)
    k3 = derivative(moved(state, HALF_DT, k2), torque, two)
    k4 = derivative(moved(state, DT, k3), torque, two)
    slope = (
        k1[0] + 2.0 * k2[0] + 2.0 * k3[0] + k4[0],
        k1[1] + 2.0 * k2[1] + 2.0 * k3[1] + k4[1],
        k1[2] + 2.0 * k2[2] + 2.0 * k3[2] + k4[2],
        k1[3] + 2.0 * k2[3] + 2.0 * k3[3] + k4[3],
    )
    return moved(state, SIXTH_DT, slope)


@part_in_place
def moved(state: State, duration: float, slope: State) -> State:
    return (
        state[0] + duration * slope[0],
        state[1] + duration * slope[1],
        state[2] + duration * slope[2],
        state[3] + duration * slope[3],
    )


@part_in_place
def derivative(state: State, torque: float, two: float) -> State:
    """What angles and velocities change by. Source: Sutton and Barto, "Reinforcement Learning", on the acrobot."""
    theta1, theta2, velocity1, velocity2 = state
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
    return velocity1, velocity2, -(d2 * acceleration2 + phi1) / d1, acceleration2


@part_in_place
def wrapped(angle: float) -> float:
    """The angle within [-pi, pi]."""
    while angle > HALF_TURN:
        angle = angle - TURN
    while angle < -HALF_TURN:
        angle = angle + TURN
    return angle
