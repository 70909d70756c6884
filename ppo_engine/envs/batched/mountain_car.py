"""MountainCar, as gymnasium/envs/classic_control/mountain_car.py has it: same operations, in the same order.

Physics: position, velocity. Parameters: the velocity that is needed at the goal.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import part_in_place
from ppo_engine.envs.batched.arithmetic import clip
from ppo_engine.envs.batched.pcg64 import uniform

MIN_POSITION, MAX_POSITION = -1.2, 0.6
MAX_SPEED = 0.07
GOAL_POSITION = 0.5
FORCE = 0.001
GRAVITY = 0.0025


@part_in_place
def reset(physics: NDArray[np.float64], generators: NDArray[np.uint64]) -> None:
    for env in range(len(physics)):
        physics[env, 0] = uniform(generators, env, -0.6, -0.4)
        physics[env, 1] = 0.0


@part_in_place
def step(
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    actions: NDArray[Any],
    rewards: NDArray[np.float64],
    terminated: NDArray[np.bool_],
) -> None:
    goal_velocity = parameters[0]
    for env in range(len(physics)):
        position, velocity = physics[env, 0], physics[env, 1]
        velocity += (np.float64(actions[env, 0]) - 1.0) * FORCE + math.cos(3.0 * position) * (-GRAVITY)
        velocity = clip(velocity, -MAX_SPEED, MAX_SPEED)
        position = clip(position + velocity, MIN_POSITION, MAX_POSITION)
        if position == MIN_POSITION and velocity < 0.0:
            velocity = 0.0
        physics[env, 0], physics[env, 1] = position, velocity
        terminated[env] = position >= GOAL_POSITION and velocity >= goal_velocity
        rewards[env] = -1.0


@part_in_place
def observe(
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    observations: NDArray[np.float32],
) -> None:
    for env in range(len(physics)):
        observations[env, 0], observations[env, 1] = physics[env, 0], physics[env, 1]
