"""CartPole, as gymnasium/envs/classic_control/cartpole.py has it: same operations, in the same order.

Physics: position, velocity, angle, angular velocity. Parameters: whether the reward is Sutton and Barto's.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import part_in_place
from ppo_engine.envs.batched.pcg64 import uniform

GRAVITY = 9.8
POLE_MASS = 0.1
TOTAL_MASS = POLE_MASS + 1.0
HALF_LENGTH = 0.5
POLE_MASS_LENGTH = POLE_MASS * HALF_LENGTH
FORCE = 10.0
TAU = 0.02
MAX_POSITION = 2.4
MAX_ANGLE = 12 * 2 * math.pi / 360


@part_in_place
def reset(physics: NDArray[np.float64], generators: NDArray[np.uint64]) -> None:
    for env in range(len(physics)):
        for feature in range(4):
            physics[env, feature] = uniform(generators, env, -0.05, 0.05)


@part_in_place
def step(
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    actions: NDArray[Any],
    rewards: NDArray[np.float64],
    terminated: NDArray[np.bool_],
) -> None:
    is_suttons = parameters[0] != 0.0
    for env in range(len(physics)):
        x, x_dot, theta, theta_dot = physics[env, 0], physics[env, 1], physics[env, 2], physics[env, 3]
        force = FORCE if actions[env, 0] == 1 else -FORCE
        cos, sin = math.cos(theta), math.sin(theta)
        temp = (force + POLE_MASS_LENGTH * (theta_dot * theta_dot) * sin) / TOTAL_MASS
        theta_acceleration = (GRAVITY * sin - cos * temp) / (
            HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * (cos * cos) / TOTAL_MASS)
        )
        x_acceleration = temp - POLE_MASS_LENGTH * theta_acceleration * cos / TOTAL_MASS
        x = x + TAU * x_dot
        theta = theta + TAU * theta_dot
        physics[env, 0], physics[env, 1] = x, x_dot + TAU * x_acceleration
        physics[env, 2], physics[env, 3] = theta, theta_dot + TAU * theta_acceleration
        terminated[env] = x < -MAX_POSITION or x > MAX_POSITION or theta < -MAX_ANGLE or theta > MAX_ANGLE
        rewards[env] = (-1.0 if terminated[env] else 0.0) if is_suttons else 1.0


@part_in_place
def observe(
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    observations: NDArray[np.float32],
) -> None:
    for env in range(len(physics)):
        for feature in range(4):
            observations[env, feature] = physics[env, feature]
